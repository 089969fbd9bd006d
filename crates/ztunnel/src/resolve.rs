//! Addresses of workloads that the mesh knows by DNS name only.

use std::net::{IpAddr, SocketAddr};

use ambit_model::Text;
use ambit_model::balance::Host;
use ambit_model::outbound::{Decision, of_family};

use crate::outbound::target;

/// A name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("no ip addresses were resolved for workload: {0}")]
    Nothing(Text),
    #[error("no valid routing destination for workload: {0}")]
    Remote(Text),
}

/// The address that a decision leads to.
pub(crate) async fn dialled(
    decision: &Decision,
    original: SocketAddr,
) -> Result<SocketAddr, ResolveError> {
    let (host, port) = target(&decision.route);
    let uid = || {
        decision
            .workload
            .as_ref()
            .map_or_else(|| "".into(), |w| w.uid.clone())
    };
    match host {
        Host::Ip(ip) => Ok(SocketAddr::new(*ip, port)),
        Host::Remote => Err(ResolveError::Remote(uid())),
        Host::Name(name) => {
            let found = tokio::net::lookup_host((&**name, port)).await;
            let addresses: Vec<IpAddr> = match found {
                Ok(addresses) => addresses.map(|a| a.ip().to_canonical()).collect(),
                Err(e) => {
                    tracing::debug!("cannot resolve {name}: {e}");
                    Vec::new()
                }
            };
            let ip = of_family(&addresses, original.ip(), &mut rand::rng());
            ip.map(|ip| SocketAddr::new(ip, port))
                .ok_or_else(|| ResolveError::Nothing(uid()))
        }
    }
}
