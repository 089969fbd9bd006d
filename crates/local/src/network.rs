//! Links, addresses and routes, over netlink, in the calling thread's network
//! namespace.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteScope};
use rtnetlink::{Error, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::error::{Doing, LocalError, Result};

/// The kernel's "there is one already".
const EEXIST: i32 = 17;
/// The kernel's "there is none".
const ENODEV: i32 = 19;

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
        let mut links = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is_errno(&error, ENODEV) => Ok(None),
            Err(error) => Err(error).doing(format!("looking for the link {name}")),
        }
    }

    /// Makes a pair of links; says whether the first name was free.
    pub(crate) async fn add_pair(&self, name: &str, peer: &str) -> Result<bool> {
        match self
            .handle
            .link()
            .add(LinkVeth::new(name, peer).build())
            .execute()
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if is_errno(&error, EEXIST) => Ok(false),
            Err(error) => Err(error).doing(format!("making the links {name} and {peer}")),
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
    pub(crate) async fn add_address(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        let index = self.index(name).await?;
        let request = self.handle.address().add(index, IpAddr::V4(address), 32);
        request
            .execute()
            .await
            .doing(format!("giving {name} the address {address}"))
    }

    /// A route to what is directly at the end of a link.
    pub(crate) async fn route_link(
        &self,
        to: Ipv4Addr,
        name: &str,
        source: Ipv4Addr,
    ) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, 32)
            .output_interface(self.index(name).await?)
            .pref_source(source)
            .scope(RouteScope::Link)
            .build();
        self.handle
            .route()
            .add(route)
            .execute()
            .await
            .doing(format!("adding the route to {to}"))
    }

    /// A route over a next hop that is at the end of a link.
    pub(crate) async fn route_via(
        &self,
        to: Ipv4Net,
        name: &str,
        hop: Ipv4Addr,
        source: Ipv4Addr,
    ) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .output_interface(self.index(name).await?)
            .gateway(hop)
            .pref_source(source)
            .build();
        self.handle
            .route()
            .add(route)
            .execute()
            .await
            .doing(format!("adding the route to {to}"))
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
    pub(crate) async fn is_routed(&self, network: Ipv4Net) -> Result<bool> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(query).execute();
        while let Some(route) = routes.try_next().await.doing("listing routes")? {
            let prefix = route.header.destination_prefix_length;
            let found = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
                    _ => None,
                });
            let net = found.and_then(|address| Ipv4Net::new(address, prefix).ok());
            // Shorter ones lead elsewhere as a whole; ours would be more exact.
            if net.is_some_and(|net| {
                prefix >= 16 && (net.contains(&network) || network.contains(&net))
            }) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_errno(error: &Error, errno: i32) -> bool {
    matches!(error, Error::NetlinkError(message)
        if message.code.is_some_and(|code| code.get() == -errno))
}

/// Makes the calling thread's network namespace forward packets, and accept
/// those whose way back is another: the routes of a cluster are all known.
pub(crate) fn be_router() -> Result<()> {
    for (name, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ] {
        let path = format!("/proc/sys/{name}");
        std::fs::write(&path, value).map_err(crate::error::file("writing", path))?;
    }
    Ok(())
}
