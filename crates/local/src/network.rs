//! Links, addresses and routes, over netlink, in the calling thread's network
//! namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ambit_node_agent::nft::Family;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};
use rtnetlink::{Error, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::error::{Doing, LocalError, Result};

/// The kernel's "there is one already".
const EEXIST: i32 = 17;
/// The kernel's "there is none".
const ENODEV: i32 = 19;

/// An end of a link between the router and somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The router's.
    Router,
    /// The host's or a node's.
    Outer,
}

impl End {
    /// Its own address on the link, in IPv6, and that of the other end. They
    /// are the same on every link.
    fn link_local(self) -> (IpAddr, IpAddr) {
        let [router, outer] = [1, 2].map(|last| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last));
        match self {
            Self::Router => (router.into(), outer.into()),
            Self::Outer => (outer.into(), router.into()),
        }
    }
}

/// A connection to the kernel's network configuration.
pub(crate) struct Network {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Runs `body` on a runtime of its own, in the calling thread: the namespace
/// that counts is the thread's.
pub(crate) fn block_on<T>(body: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("starting a runtime")?
        .block_on(body)
}

impl Network {
    /// Opens the connection; needs a runtime.
    pub(crate) fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().doing("opening netlink")?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// The index of a link.
    async fn index(&self, name: &str) -> Result<u32> {
        self.find(name).await?.ok_or_else(|| LocalError::Part {
            part: "network".to_owned(),
            reason: format!("the link {name} is gone"),
        })
    }

    async fn find(&self, name: &str) -> Result<Option<u32>> {
        Ok(self.look(name).await?.map(|link| link.header.index))
    }

    async fn look(&self, name: &str) -> Result<Option<LinkMessage>> {
        let mut links = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        match links.try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is_errno(&error, ENODEV) => Ok(None),
            Err(error) => Err(error).doing(format!("looking for the link {name}")),
        }
    }

    /// Makes a pair of links; says whether the first name was free.
    pub(crate) async fn add_pair(&self, name: &str, peer: &str) -> Result<bool> {
        self.add(LinkVeth::new(name, peer).build(), name).await
    }

    /// As [`Network::add_pair`], the first link with an address that tells whose it is.
    pub(crate) async fn claim_pair(&self, name: &str, peer: &str, own: [u8; 6]) -> Result<bool> {
        let pair = LinkVeth::new(name, peer).address(own.to_vec()).build();
        self.add(pair, name).await
    }

    async fn add(&self, link: LinkMessage, name: &str) -> Result<bool> {
        match self.handle.link().add(link).execute().await {
            Ok(()) => Ok(true),
            Err(error) if is_errno(&error, EEXIST) => Ok(false),
            Err(error) => Err(error).doing(format!("making the link {name}")),
        }
    }

    /// Moves a link into the network namespace of a process.
    pub(crate) async fn give_to(&self, name: &str, pid: i32) -> Result<()> {
        let index = self.index(name).await?;
        let link = LinkUnspec::new_with_index(index)
            .setns_by_pid(pid.unsigned_abs())
            .build();
        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .doing(format!("moving the link {name}"))
    }

    /// Renames a link, which must be down.
    pub(crate) async fn rename(&self, name: &str, new: &str) -> Result<()> {
        let link = LinkUnspec::new_with_index(self.index(name).await?)
            .name(new.to_owned())
            .build();
        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .doing(format!("renaming the link {name}"))
    }

    /// Brings a link up.
    pub(crate) async fn up(&self, name: &str) -> Result<()> {
        let link = LinkUnspec::new_with_index(self.index(name).await?)
            .up()
            .build();
        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .doing(format!("bringing {name} up"))
    }

    /// Takes a link down, and its routes with it.
    pub(crate) async fn down(&self, name: &str) -> Result<()> {
        let link = LinkUnspec::new_with_index(self.index(name).await?)
            .down()
            .build();
        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .doing(format!("taking {name} down"))
    }

    /// Gives a link an address of its own, with nothing else on it.
    pub(crate) async fn add_address(&self, name: &str, address: IpAddr) -> Result<()> {
        let alone = if address.is_ipv4() { 32 } else { 128 };
        self.assign(name, address, alone).await
    }

    async fn assign(&self, name: &str, address: IpAddr, length: u8) -> Result<()> {
        let index = self.index(name).await?;
        let mut request = self.handle.address().add(index, address, length).replace();
        if address.is_ipv6() {
            // Nobody else can have it: no need to ask around first.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request
            .execute()
            .await
            .doing(format!("giving {name} the address {address}"))
    }

    /// Makes one end of a link know the other: `own` reaches `peer`, and what
    /// is behind it by the next hop that is returned.
    pub(crate) async fn join(
        &self,
        name: &str,
        end: End,
        own: IpAddr,
        peer: IpAddr,
    ) -> Result<IpAddr> {
        if peer.is_ipv4() {
            self.route_link(peer, name, own).await?;
            return Ok(peer);
        }
        // Only addresses of the link itself are answered for in IPv6.
        let (mine, theirs) = end.link_local();
        self.assign(name, mine, 64).await?;
        self.route_via(peer.into(), name, theirs, own).await?;
        Ok(theirs)
    }

    /// A route to what is directly at the end of a link.
    async fn route_link(&self, to: IpAddr, name: &str, source: IpAddr) -> Result<()> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to, 32)
            .and_then(|route| route.pref_source(source))
            .map_err(std::io::Error::other)
            .doing(format!("making the route to {to}"))?
            .output_interface(self.index(name).await?)
            .scope(RouteScope::Link);
        self.add_route(route.build(), to.into()).await
    }

    /// A route over a next hop that is at the end of a link.
    pub(crate) async fn route_via(
        &self,
        to: IpNet,
        name: &str,
        hop: IpAddr,
        source: IpAddr,
    ) -> Result<()> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .and_then(|route| route.gateway(hop))
            .and_then(|route| route.pref_source(source))
            .map_err(std::io::Error::other)
            .doing(format!("making the route to {to}"))?
            .output_interface(self.index(name).await?);
        self.add_route(route.build(), to).await
    }

    async fn add_route(&self, route: RouteMessage, to: IpNet) -> Result<()> {
        let added = self.handle.route().add(route).replace().execute().await;
        added.doing(format!("adding the route to {to}"))
    }

    /// Removes a link of ours (and its peer). One with another address is somebody
    /// else's.
    pub(crate) async fn remove_own(&self, name: &str, own: [u8; 6]) -> Result<()> {
        let own = LinkAttribute::Address(own.to_vec());
        match self.look(name).await? {
            Some(link) if link.attributes.contains(&own) => self.remove(name).await,
            _ => Ok(()),
        }
    }

    /// Removes a link (and its peer); one that is gone is as good.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let Some(index) = self.find(name).await? else {
            return Ok(());
        };
        match self.handle.link().del(index).execute().await {
            Err(error) if !is_errno(&error, ENODEV) => {
                Err(error).doing(format!("removing the link {name}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the host already has a route into this network (other than a
    /// default one).
    pub(crate) async fn is_routed(&self, network: IpNet) -> Result<bool> {
        let query = match network {
            IpNet::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpNet::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let mut routes = self.handle.route().get(query).execute();
        while let Some(route) = routes.try_next().await.doing("listing routes")? {
            // Shorter ones lead elsewhere as a whole; ours would be more exact.
            let meets = |net: IpNet| {
                net.prefix_len() >= 16 && (net.contains(&network) || network.contains(&net))
            };
            if destination(&route).is_some_and(meets) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Where a route leads.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        });
    IpNet::new(address?, route.header.destination_prefix_length).ok()
}

fn is_errno(error: &Error, errno: i32) -> bool {
    matches!(error, Error::NetlinkError(message)
        if message.code.is_some_and(|code| code.get() == -errno))
}

/// Makes the calling thread's network namespace forward packets, and accept
/// those whose way back is another: the routes of a cluster are all known.
pub(crate) fn be_router(families: &[Family]) -> Result<()> {
    let mut settings = vec![
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ];
    if families.contains(&Family::V6) {
        settings.extend([
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ]);
    }
    for (name, value) in settings {
        let path = format!("/proc/sys/{name}");
        std::fs::write(&path, value).map_err(crate::error::file("writing", path))?;
    }
    Ok(())
}
