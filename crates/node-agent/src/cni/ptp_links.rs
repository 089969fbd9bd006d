//! The netlink side of the primary plugin.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::ptp::gateway;

/// A step on the links failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A netlink request was refused.
    #[error("{step}: {source}")]
    Netlink {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: Box<rtnetlink::Error>,
    },
    /// A file or namespace could not be used.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// An interface that was just made is not there.
    #[error("interface {0} disappeared")]
    Missing(String),
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, LinkError>;
}

impl<T> Step<T> for Result<T, rtnetlink::Error> {
    fn step(self, step: &'static str) -> Result<T, LinkError> {
        self.map_err(|source| LinkError::Netlink {
            step,
            source: Box::new(source),
        })
    }
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &'static str) -> Result<T, LinkError> {
        self.map_err(|source| LinkError::System { step, source })
    }
}

/// The pair to make.
pub(super) struct PodLink {
    pub host_name: String,
    pub interface: String,
    pub netns: PathBuf,
    pub addresses: Vec<IpAddr>,
    pub mtu: u32,
}

/// Hardware addresses of the pair.
pub(super) struct Made {
    pub host_mac: Vec<u8>,
    pub pod_mac: Vec<u8>,
}

/// Makes the pair, addresses, routes and neighbours. On failure the pair is removed again.
pub(super) fn create(link: &PodLink) -> Result<Made, LinkError> {
    for address in &link.addresses {
        let switch = match address {
            IpAddr::V4(_) => "/proc/sys/net/ipv4/ip_forward",
            IpAddr::V6(_) => "/proc/sys/net/ipv6/conf/all/forwarding",
        };
        std::fs::write(switch, "1").step("enable forwarding on the node")?;
    }
    let pod = File::open(&link.netns).step("open the pod's network namespace")?;
    block_on(async {
        let host = connect()?;
        let inside = connect_in(&pod)?;
        // Leftovers of an attempt that was interrupted.
        remove_link(&host, &link.host_name).await?;
        let made = connect_pair(&host, &inside, &pod, link).await;
        if made.is_err() {
            let _ = remove_link(&host, &link.host_name).await;
        }
        made
    })
}

async fn connect_pair(
    host: &Handle,
    inside: &Handle,
    pod: &File,
    link: &PodLink,
) -> Result<Made, LinkError> {
    // A name that cannot meet an interface of the node; it becomes `eth0` inside the pod.
    let temporary = link.host_name.replace("veth", "tmpe");
    host.link()
        .add(
            LinkVeth::new(&link.host_name, &temporary)
                .mtu(link.mtu)
                .build(),
        )
        .execute()
        .await
        .step("make veth pair")?;
    let (peer, _) = find(host, &temporary)
        .await?
        .ok_or_else(|| LinkError::Missing(temporary.clone()))?;
    host.link()
        .set(
            LinkUnspec::new_with_index(peer)
                .setns_by_fd(pod.as_raw_fd())
                .build(),
        )
        .execute()
        .await
        .step("move interface into the pod")?;
    let (inner, pod_mac) = find(inside, &temporary)
        .await?
        .ok_or_else(|| LinkError::Missing(temporary.clone()))?;
    let (outer, host_mac) = find(host, &link.host_name)
        .await?
        .ok_or_else(|| LinkError::Missing(link.host_name.clone()))?;
    configure_pod(inside, inner, &host_mac, link).await?;
    configure_host(host, outer, &pod_mac, link).await?;
    Ok(Made { host_mac, pod_mac })
}

async fn configure_pod(
    inside: &Handle,
    index: u32,
    host_mac: &[u8],
    link: &PodLink,
) -> Result<(), LinkError> {
    let set = LinkUnspec::new_with_index(index)
        .name(link.interface.clone())
        .mtu(link.mtu)
        .up()
        .build();
    inside
        .link()
        .set(set)
        .execute()
        .await
        .step("bring the pod's interface up")?;
    for address in &link.addresses {
        let gateway = gateway(*address);
        assign(inside, index, *address).await?;
        inside
            .neighbours()
            .add(index, gateway)
            .state(NeighbourState::Permanent)
            .link_layer_address(host_mac)
            .replace()
            .execute()
            .await
            .step("set the pod's next hop")?;
        // In IPv6 the link itself leads to every link-local address.
        if gateway.is_ipv4() {
            let to_gateway = direct(gateway, index);
            let added = inside.route().add(to_gateway).execute().await;
            added.step("add the pod's gateway route")?;
        }
        let added = inside.route().add(default(gateway, index)).execute().await;
        added.step("add the pod's default route")?;
    }
    Ok(())
}

/// Gives an interface an address that is alone in its network. Nobody else can have it, so there is
/// nothing to wait for in IPv6 (duplicate address detection).
async fn assign(handle: &Handle, index: u32, address: IpAddr) -> Result<(), LinkError> {
    let alone = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(index, address, alone);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await.step("assign the pod's address")
}

/// A route to what is at the other end of an interface.
fn direct(to: IpAddr, interface: u32) -> RouteMessage {
    match to {
        IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, 32)
            .output_interface(interface)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(to, 128)
            .output_interface(interface)
            .build(),
    }
}

/// The route to everything else of the next hop's version of IP.
fn default(hop: IpAddr, interface: u32) -> RouteMessage {
    match hop {
        IpAddr::V4(hop) => RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(hop)
            .output_interface(interface)
            .build(),
        IpAddr::V6(hop) => RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(hop)
            .output_interface(interface)
            .build(),
    }
}

async fn configure_host(
    host: &Handle,
    index: u32,
    pod_mac: &[u8],
    link: &PodLink,
) -> Result<(), LinkError> {
    let set = LinkUnspec::new_with_index(index).mtu(link.mtu).up().build();
    host.link()
        .set(set)
        .execute()
        .await
        .step("bring the node's interface up")?;
    for address in &link.addresses {
        host.neighbours()
            .add(index, *address)
            .state(NeighbourState::Permanent)
            .link_layer_address(pod_mac)
            .replace()
            .execute()
            .await
            .step("set the pod as neighbour")?;
        let route = host.route().add(direct(*address, index)).replace();
        route.execute().await.step("add the route to the pod")?;
    }
    Ok(())
}

/// Removes the node's end, and with it the pair. A missing interface is no error.
pub(super) fn remove(host_name: &str) -> Result<(), LinkError> {
    block_on(async { remove_link(&connect()?, host_name).await })
}

/// Whether the node's end is there.
pub(super) fn exists(host_name: &str) -> Result<bool, LinkError> {
    block_on(async { Ok(find(&connect()?, host_name).await?.is_some()) })
}

async fn remove_link(handle: &Handle, name: &str) -> Result<(), LinkError> {
    match find(handle, name).await? {
        Some((index, _)) => handle
            .link()
            .del(index)
            .execute()
            .await
            .step("remove interface"),
        None => Ok(()),
    }
}

/// Index and hardware address of an interface.
async fn find(handle: &Handle, name: &str) -> Result<Option<(u32, Vec<u8>)>, LinkError> {
    let mut links = handle.link().get().match_name(name.to_string()).execute();
    match links.try_next().await {
        Ok(Some(message)) => {
            let mac = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::Address(mac) => Some(mac.clone()),
                    _ => None,
                });
            Ok(Some((message.header.index, mac.unwrap_or_default())))
        }
        Ok(None) => Ok(None),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(error).step("look up interface"),
    }
}

fn connect() -> Result<Handle, LinkError> {
    let (connection, handle, _) = rtnetlink::new_connection().step("open netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// A netlink socket of another network namespace. The plugin is single-threaded, and nothing awaits
/// between entering and leaving.
fn connect_in(netns: &File) -> Result<Handle, LinkError> {
    let own = File::open("/proc/self/ns/net").step("open own network namespace")?;
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(io::Error::from)
        .step("enter the pod's network namespace")?;
    let handle = connect();
    setns(own.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(io::Error::from)
        .step("return to the node's network namespace")?;
    handle
}

fn block_on<T>(work: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .step("start runtime")?
        .block_on(work)
}
