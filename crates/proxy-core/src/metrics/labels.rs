//! The labels of a connection, in Istio's order.

use std::fmt;
use std::sync::Arc;

use ambit_model::{Text, Workload};
use ambit_transport::hbone::Baggage;
use prometheus_client::encoding::{
    EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};

use crate::record::{Connection, Party};

/// Which end of a connection reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's: outbound.
    Source,
    /// The server's: inbound.
    Destination,
    /// A waypoint's, between both.
    Waypoint,
}

impl Reporter {
    /// The direction as the access log names it.
    pub fn direction(self) -> &'static str {
        match self {
            Reporter::Source => "outbound",
            Reporter::Destination | Reporter::Waypoint => "inbound",
        }
    }
}

/// Why a connection failed, as Istio abbreviates it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResponseFlags {
    /// It did not.
    #[default]
    None,
    /// A policy forbids it.
    Deny,
    /// No connection, or it broke; also where nothing more precise is known.
    Connect,
    /// The TLS handshake failed.
    TlsFailure,
    /// The HTTP/2 handshake failed.
    H2HandshakeFailure,
    /// Probably a `NetworkPolicy` blocks the way.
    NetworkPolicy,
    /// There is no certificate.
    IdentityError,
    /// The peer's certificate is revoked.
    CertRevoked,
}

/// A text that is shown as `unknown` when it is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Label(Text);

impl Default for Label {
    fn default() -> Self {
        Self("".into())
    }
}

impl From<&Text> for Label {
    fn from(text: &Text) -> Self {
        Self(text.clone())
    }
}

impl From<Option<String>> for Label {
    fn from(text: Option<String>) -> Self {
        Self(text.unwrap_or_default().into())
    }
}

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        let text = if self.0.is_empty() {
            "unknown"
        } else {
            &*self.0
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

impl EncodeLabelValue for Reporter {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        let text = match self {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
            Reporter::Waypoint => "waypoint",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

impl EncodeLabelValue for ResponseFlags {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        let text = match self {
            ResponseFlags::None => "-",
            ResponseFlags::Deny => "DENY",
            ResponseFlags::Connect => "CONNECT",
            ResponseFlags::TlsFailure => "TLS_FAILURE",
            ResponseFlags::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            ResponseFlags::NetworkPolicy => "NETWORK_POLICY",
            ResponseFlags::IdentityError => "IDENTITY_ERROR",
            ResponseFlags::CertRevoked => "CERT_REVOKED",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

/// The labels of the TCP families. The order of the fields is the order on the page.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TrafficLabels {
    #[prometheus(flatten)]
    ends: Ends,
    request_protocol: &'static str,
    response_flags: ResponseFlags,
    connection_security_policy: &'static str,
    source_region: Label,
    source_zone: Label,
    destination_region: Label,
    destination_zone: Label,
}

/// Who speaks with whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Ends {
    reporter: Reporter,
    source_workload: Label,
    source_canonical_service: Label,
    source_canonical_revision: Label,
    source_workload_namespace: Label,
    source_principal: Label,
    source_app: Label,
    source_version: Label,
    source_cluster: Label,
    destination_service: Label,
    destination_service_namespace: Label,
    destination_service_name: Label,
    destination_workload: Label,
    destination_canonical_service: Label,
    destination_canonical_revision: Label,
    destination_workload_namespace: Label,
    destination_principal: Label,
    destination_app: Label,
    destination_version: Label,
    destination_cluster: Label,
}

/// How the ends have proven who they are.
pub(super) fn security_policy(connection: &Connection) -> &'static str {
    match connection.mutual_tls {
        true => "mutual_tls",
        false => "unknown",
    }
}

/// Labels shared by the five families.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels(pub(super) Arc<TrafficLabels>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        self.0.encode(encoder)
    }
}

impl Ends {
    pub(super) fn of(connection: &Connection) -> Self {
        Self::from_facts(
            connection,
            Facts::of(&connection.source),
            Facts::of(&connection.destination),
        )
    }

    fn from_facts(connection: &Connection, source: Facts, destination: Facts) -> Self {
        let service = connection.service.as_deref();
        // For the source only what TLS has shown counts; the destination is who we meant to reach.
        let source_principal = connection.source.identity.as_ref().map(ToString::to_string);
        let own = || {
            connection
                .destination
                .workload
                .as_ref()
                .map(|w| w.identity().to_string())
        };
        let verified = connection
            .destination
            .identity
            .as_ref()
            .map(ToString::to_string);
        Self {
            reporter: connection.reporter,
            source_workload: source.workload,
            source_canonical_service: source.service,
            source_canonical_revision: source.revision.clone(),
            source_workload_namespace: source.namespace,
            source_principal: source_principal.into(),
            source_app: source.app,
            source_version: source.revision,
            source_cluster: source.cluster,
            destination_service: service
                .map(|s| Label::from(&s.hostname))
                .unwrap_or_default(),
            destination_service_namespace: service
                .map(|s| Label::from(&s.namespace))
                .unwrap_or_default(),
            destination_service_name: service.map(|s| Label::from(&s.name)).unwrap_or_default(),
            destination_workload: destination.workload,
            destination_canonical_service: destination.service,
            destination_canonical_revision: destination.revision.clone(),
            destination_workload_namespace: destination.namespace,
            destination_principal: verified.or_else(own).into(),
            destination_app: destination.app,
            destination_version: destination.revision,
            destination_cluster: destination.cluster,
        }
    }
}

impl Labels {
    /// The labels of a connection that is open.
    pub(super) fn of(connection: &Connection) -> Self {
        let source = Facts::of(&connection.source);
        let destination = Facts::of(&connection.destination);
        Self(Arc::new(TrafficLabels {
            request_protocol: "tcp",
            response_flags: ResponseFlags::None,
            connection_security_policy: security_policy(connection),
            source_region: source.region.clone(),
            source_zone: source.zone.clone(),
            destination_region: destination.region.clone(),
            destination_zone: destination.zone.clone(),
            ends: Ends::from_facts(connection, source, destination),
        }))
    }

    /// The same connection after it ended like this.
    pub(super) fn ended(&self, flags: ResponseFlags) -> Self {
        if flags == self.0.response_flags {
            return self.clone();
        }
        Self(Arc::new(TrafficLabels {
            response_flags: flags,
            ..TrafficLabels::clone(&self.0)
        }))
    }
}

/// What is told about one end.
#[derive(Default)]
struct Facts {
    workload: Label,
    service: Label,
    revision: Label,
    namespace: Label,
    app: Label,
    cluster: Label,
    region: Label,
    zone: Label,
}

impl Facts {
    fn of(party: &Party) -> Self {
        match (&party.workload, &party.baggage) {
            (Some(workload), _) => Self::of_workload(workload),
            (None, Some(baggage)) => Self::of_baggage(baggage),
            (None, None) => Self::default(),
        }
    }

    fn of_workload(workload: &Workload) -> Self {
        Self {
            workload: Label::from(&workload.workload_name),
            service: Label::from(&workload.canonical_name),
            revision: Label::from(&workload.canonical_revision),
            namespace: Label::from(&workload.namespace),
            app: Label::from(&workload.canonical_name),
            cluster: Label::from(&workload.cluster_id),
            region: Label::from(&workload.locality.region),
            zone: Label::from(&workload.locality.zone),
        }
    }

    fn of_baggage(baggage: &Baggage) -> Self {
        let workload = Label::from(baggage.workload.as_ref().map(|(_, name)| name.clone()));
        Self {
            app: workload.clone(),
            workload,
            service: baggage.service.clone().into(),
            revision: baggage.version.clone().into(),
            namespace: baggage.namespace.clone().into(),
            cluster: baggage.cluster.clone().into(),
            region: baggage.region.clone().into(),
            zone: baggage.zone.clone().into(),
        }
    }
}
