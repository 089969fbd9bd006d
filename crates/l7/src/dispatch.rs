//! What a tunnel's destination stands for: one of the waypoint's services, or of its workloads.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_model::service::{AppProtocol, NamespacedHostname};
use ambit_model::state::MeshState;
use ambit_model::workload::{GatewayAddress, GatewayDestination};
use ambit_model::{Service, Workload};
use ambit_transport::hbone::Authority;

/// A destination that is this waypoint's to serve.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// A port of a service.
    Service(Arc<Service>, u16),
    /// A port of a workload itself.
    Workload(Arc<Workload>, u16),
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP of any version.
    Http,
    /// Bytes.
    Tcp,
    /// Not said: the first bytes tell.
    Unknown,
}

impl Destination {
    /// The port that the client asked for.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Service(_, port) | Self::Workload(_, port) => *port,
        }
    }

    /// The service, if one was asked for.
    pub(crate) fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Service(service, _) => Some(service),
            Self::Workload(..) => None,
        }
    }

    /// What is spoken there.
    pub(crate) fn spoken(&self) -> Spoken {
        let declared = match self {
            Self::Service(service, port) => service.app_protocols.get(port).copied(),
            Self::Workload(..) => None,
        };
        match declared.unwrap_or_default() {
            AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => Spoken::Http,
            AppProtocol::Tcp | AppProtocol::Tls => Spoken::Tcp,
            AppProtocol::Unknown => Spoken::Unknown,
        }
    }
}

/// Who we are, as services and workloads name their waypoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    /// By name.
    pub(crate) service: &'a NamespacedHostname,
    /// The network that addresses are of.
    pub(crate) network: &'a str,
}

impl Own<'_> {
    fn is(&self, state: &MeshState, reference: &GatewayAddress) -> bool {
        match &reference.destination {
            GatewayDestination::Hostname(key) => key == self.service,
            GatewayDestination::Address(at) => {
                let own = state.service(self.service).map(|(service, _)| service);
                own.is_some_and(|own| own.vips.contains(at))
            }
        }
    }

    /// Whether a service names us as its waypoint.
    pub(crate) fn serves(&self, state: &MeshState, service: &Service) -> bool {
        let weighted = service.weighted_waypoints.iter().map(|w| &w.destination);
        let mut references = service.waypoint.iter().chain(weighted);
        references.any(|reference| self.is(state, reference))
    }
}

/// What a CONNECT asks for; `None` for what is not ours.
pub(crate) fn find(state: &MeshState, own: Own<'_>, authority: &Authority) -> Option<Destination> {
    match authority {
        Authority::Address(address) => by_address(state, own, *address),
        Authority::Host { host, port } => {
            let namespace = &own.service.namespace;
            let (service, _) = state.service_named(host, namespace, None)?;
            let ours = own.serves(state, service) && service.ports.contains_key(port);
            ours.then(|| Destination::Service(service.clone(), *port))
        }
    }
}

fn by_address(state: &MeshState, own: Own<'_>, address: SocketAddr) -> Option<Destination> {
    let (ip, port) = (address.ip(), address.port());
    if let Some((service, _)) = state.service_at(own.network, ip, &own.service.namespace)
        && service.ports.contains_key(&port)
        && own.serves(state, service)
    {
        return Some(Destination::Service(service.clone(), port));
    }
    let workload = state.workload_at(own.network, ip)?;
    let reference = workload.waypoint.as_ref()?;
    own.is(state, reference)
        .then(|| Destination::Workload(workload.clone(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::state::Change;
    use ambit_model::workload::NetworkAddress;

    fn waypoint(name: &str) -> Option<GatewayAddress> {
        Some(GatewayAddress {
            destination: GatewayDestination::Hostname(NamespacedHostname::new("shop", name)),
            hbone_mtls_port: 15008,
        })
    }

    fn state() -> MeshState {
        let mut state = MeshState::new(None);
        let service = |name: &str, ip: &str, via: &str| Service {
            name: name.into(),
            namespace: "shop".into(),
            hostname: name.into(),
            vips: vec![NetworkAddress {
                network: "".into(),
                address: ip.parse().unwrap(),
            }],
            ports: [(80, 8080)].into(),
            app_protocols: [(80, AppProtocol::Http11)].into(),
            waypoint: waypoint(via),
            ..Service::default()
        };
        for s in [
            service("mine", "10.1.0.1", "w"),
            service("other", "10.1.0.2", "x"),
        ] {
            state.apply(&Change::Service(Arc::new(s)));
        }
        for (name, ip, via) in [("p", "10.0.0.1", "w"), ("q", "10.0.0.2", "x")] {
            state.apply(&Change::Workload(Arc::new(Workload {
                uid: name.into(),
                addresses: vec![ip.parse().unwrap()],
                waypoint: waypoint(via),
                ..Workload::default()
            })));
        }
        state
    }

    #[test]
    fn only_what_names_us_is_ours() {
        let state = state();
        let key = NamespacedHostname::new("shop", "w");
        let own = Own {
            service: &key,
            network: "",
        };
        let found = |text: &str| {
            let authority = Authority::Address(text.parse().unwrap());
            find(&state, own, &authority).map(|d| (d.service().is_some(), d.spoken()))
        };
        assert_eq!(found("10.1.0.1:80"), Some((true, Spoken::Http)));
        assert_eq!(found("10.1.0.1:81"), None);
        assert_eq!(found("10.1.0.2:80"), None);
        assert_eq!(found("10.0.0.1:9000"), Some((false, Spoken::Unknown)));
        assert_eq!(found("10.0.0.2:9000"), None);
        assert_eq!(found("192.0.2.1:80"), None);
    }
}
