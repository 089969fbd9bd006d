//! Links, addresses and routes, each operation on a thread inside the namespace that it is about.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::Namespace;

/// A netlink socket inside a namespace.
pub(crate) struct Netlink(Handle);

/// Runs `f` with a netlink socket of the namespace and waits for it.
pub(crate) fn run<T, F>(namespace: &Namespace, f: F) -> Result<T>
where
    T: Send,
    F: AsyncFnOnce(&Netlink) -> Result<T> + Send,
{
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            let driver = tokio::spawn(connection);
            let result = f(&Netlink(handle)).await;
            driver.abort();
            result
        })
    })?
}

impl Netlink {
    async fn index(&self, link: &str) -> Result<u32> {
        let mut found = self.0.link().get().match_name(link.to_owned()).execute();
        let found = found
            .try_next()
            .await
            .with_context(|| format!("no link {link}"))?;
        Ok(found
            .with_context(|| format!("no link {link}"))?
            .header
            .index)
    }

    pub(crate) async fn up(&self, link: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(link).await?)
            .up()
            .build();
        self.0
            .link()
            .set(message)
            .execute()
            .await
            .with_context(|| format!("cannot set {link} up"))
    }

    /// A pair of links, the other end in another namespace from the start.
    pub(crate) async fn veth(&self, name: &str, peer: &str, peer_in: &Namespace) -> Result<()> {
        let fd = peer_in.as_fd().as_raw_fd();
        let peer = LinkUnspec::new_with_name(peer).setns_by_fd(fd).build();
        let message = LinkVeth::new(name, "")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let added = self.0.link().add(message).execute().await;
        added.with_context(|| format!("cannot make the link {name}"))
    }

    pub(crate) async fn address(&self, link: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        let index = self.index(link).await?;
        let added = self
            .0
            .address()
            .add(index, IpAddr::V4(ip), prefix)
            .execute()
            .await;
        added.with_context(|| format!("cannot add {ip}/{prefix} to {link}"))
    }

    /// A route to `to/prefix` over `link`, directly or by way of a neighbour.
    pub(crate) async fn route(
        &self,
        to: Ipv4Addr,
        prefix: u8,
        via: Option<Ipv4Addr>,
        link: &str,
    ) -> Result<()> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, prefix)
            .output_interface(self.index(link).await?);
        route = match via {
            Some(gateway) => route.gateway(gateway).onlink(),
            None => route.scope(RouteScope::Link),
        };
        let added = self.0.route().add(route.build()).execute().await;
        added.with_context(|| format!("cannot add the route to {to}/{prefix} over {link}"))
    }

    /// Delivers packets with this mark locally, whatever their destination.
    pub(crate) async fn deliver_locally(
        &self,
        mark: u32,
        mask: u32,
        table: u32,
        priority: u32,
    ) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .output_interface(self.index("lo").await?)
            .table_id(table)
            .scope(RouteScope::Host)
            .kind(RouteType::Local)
            .build();
        self.0
            .route()
            .add(route)
            .execute()
            .await
            .context("cannot add the local route")?;
        let mut rule = self
            .0
            .rule()
            .add()
            .v4()
            .fw_mark(mark)
            .table_id(table)
            .priority(priority)
            .action(RuleAction::ToTable);
        rule.message_mut()
            .attributes
            .push(RuleAttribute::FwMask(mask));
        rule.execute().await.context("cannot add the rule")
    }
}
