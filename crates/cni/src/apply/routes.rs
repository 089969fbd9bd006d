//! The policy route of a pod: packets with the connection's mark are delivered to loopback.

use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::ApplyError;
use crate::netns::Netns;
use crate::rules::{MARK_MASK, ROUTE_TABLE, RULE_PRIORITY, TPROXY_MARK};

/// The loopback interface has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

pub(super) fn add(netns: &Netns, ipv6: bool) -> Result<(), ApplyError> {
    in_netns(netns, move |handle| async move {
        for family in families(ipv6 && ipv6_usable()) {
            handle
                .route()
                .add(route(family))
                .replace()
                .execute()
                .await
                .map_err(ApplyError::Route)?;
            let mut request = handle.rule().add();
            *request.message_mut() = rule(family);
            tolerate(request.execute().await, libc::EEXIST)?;
        }
        Ok(())
    })
}

pub(super) fn remove(netns: &Netns) -> Result<(), ApplyError> {
    in_netns(netns, |handle| async move {
        for family in families(ipv6_usable()) {
            let result = handle.rule().del(rule(family)).execute().await;
            tolerate(result, libc::ENOENT)?;
            let result = handle.route().del(route(family)).execute().await;
            tolerate(result, libc::ESRCH)?;
        }
        Ok(())
    })
}

fn families(ipv6: bool) -> impl Iterator<Item = AddressFamily> + Send {
    let v6 = ipv6.then_some(AddressFamily::Inet6);
    std::iter::once(AddressFamily::Inet).chain(v6)
}

/// Whether the loopback interface of the calling thread's namespace speaks IPv6.
fn ipv6_usable() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        .is_ok_and(|value| value.trim() == "0")
}

/// `local default dev lo table 100`
fn route(family: AddressFamily) -> RouteMessage {
    if family == AddressFamily::Inet6 {
        RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
            .output_interface(LOOPBACK_INDEX)
            .table_id(ROUTE_TABLE)
            .kind(RouteType::Local)
            .build()
    } else {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .output_interface(LOOPBACK_INDEX)
            .table_id(ROUTE_TABLE)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .build()
    }
}

/// `fwmark 0x111/0xfff lookup 100 pref 32764`
fn rule(family: AddressFamily) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.header.table = ROUTE_TABLE as u8;
    message.attributes = vec![
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(TPROXY_MARK),
        RuleAttribute::FwMask(MARK_MASK),
    ];
    message
}

/// Takes one kernel error for success: the thing is already as wanted.
fn tolerate(result: Result<(), rtnetlink::Error>, errno: i32) -> Result<(), ApplyError> {
    match result {
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -errno => Ok(()),
        other => other.map_err(ApplyError::Route),
    }
}

/// Runs netlink requests on a thread of their own inside the namespace.
fn in_netns<F, R>(netns: &Netns, work: F) -> Result<(), ApplyError>
where
    F: FnOnce(Handle) -> R + Send,
    R: Future<Output = Result<(), ApplyError>>,
{
    netns
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(ApplyError::Netlink)?;
            runtime.block_on(async {
                let (connection, handle, _) =
                    rtnetlink::new_connection().map_err(ApplyError::Netlink)?;
                let connection = tokio::spawn(connection);
                let result = work(handle).await;
                connection.abort();
                result
            })
        })
        .map_err(ApplyError::Enter)?
}
