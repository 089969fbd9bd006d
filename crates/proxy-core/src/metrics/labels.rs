//! The labels of a connection, in Istio's order.

use std::fmt;
use std::sync::Arc;

use ambit_model::{Text, Workload};
use ambit_transport::hbone::Baggage;
use prometheus_client::encoding::{
    EncodeLabel, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
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

impl Label {
    fn as_str(&self) -> &str {
        if self.0.is_empty() {
            "unknown"
        } else {
            &self.0
        }
    }
}

impl Reporter {
    fn as_str(self) -> &'static str {
        match self {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
            Reporter::Waypoint => "waypoint",
        }
    }
}

impl EncodeLabelValue for Reporter {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

impl ResponseFlags {
    fn as_str(self) -> &'static str {
        match self {
            ResponseFlags::None => "-",
            ResponseFlags::Deny => "DENY",
            ResponseFlags::Connect => "CONNECT",
            ResponseFlags::TlsFailure => "TLS_FAILURE",
            ResponseFlags::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            ResponseFlags::NetworkPolicy => "NETWORK_POLICY",
            ResponseFlags::IdentityError => "IDENTITY_ERROR",
            ResponseFlags::CertRevoked => "CERT_REVOKED",
        }
    }
}

/// What is different about the labels of a family (`Telemetry`, `tagOverrides`): names with their
/// values, or those that are left out.
pub type LabelChanges = Vec<(Text, Option<Text>)>;

/// Labels in the order in which they stand on the page.
pub(super) trait Labelled {
    /// Calls with each name and value.
    fn each(&self, with: &mut dyn FnMut(&'static str, &str));
}

/// Labels with what is different about them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Changed<T> {
    pub(super) labels: T,
    pub(super) changes: LabelChanges,
}

impl<T> Changed<T> {
    /// Nothing is different.
    pub(super) fn plain(labels: T) -> Self {
        Self {
            labels,
            changes: Vec::new(),
        }
    }
}

impl<T: Labelled> EncodeLabelSet for Changed<T> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        let mut result = Ok(());
        let mut known = Vec::new();
        let mut write = |name: &str, value: &str| {
            result = result.and_then(|()| (name, value).encode(encoder.encode_label()));
        };
        self.labels.each(&mut |name, value| match self
            .changes
            .iter()
            .find(|(other, _)| **other == *name)
        {
            None => write(name, value),
            Some((_, other)) => {
                known.push(name);
                if let Some(other) = other {
                    write(name, other);
                }
            }
        });
        for (name, value) in &self.changes {
            if let (false, Some(value)) = (known.contains(&&**name), value) {
                write(name, value);
            }
        }
        result
    }
}

/// The labels of the TCP families.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TrafficLabels {
    ends: Ends,
    request_protocol: &'static str,
    response_flags: ResponseFlags,
    connection_security_policy: &'static str,
    source_region: Label,
    source_zone: Label,
    destination_region: Label,
    destination_zone: Label,
}

impl Labelled for TrafficLabels {
    fn each(&self, with: &mut dyn FnMut(&'static str, &str)) {
        self.ends.each(with);
        with("request_protocol", self.request_protocol);
        with("response_flags", self.response_flags.as_str());
        with(
            "connection_security_policy",
            self.connection_security_policy,
        );
        with("source_region", self.source_region.as_str());
        with("source_zone", self.source_zone.as_str());
        with("destination_region", self.destination_region.as_str());
        with("destination_zone", self.destination_zone.as_str());
    }
}

/// Who speaks with whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

impl Labelled for Ends {
    fn each(&self, with: &mut dyn FnMut(&'static str, &str)) {
        with("reporter", self.reporter.as_str());
        for (name, label) in [
            ("source_workload", &self.source_workload),
            ("source_canonical_service", &self.source_canonical_service),
            ("source_canonical_revision", &self.source_canonical_revision),
            ("source_workload_namespace", &self.source_workload_namespace),
            ("source_principal", &self.source_principal),
            ("source_app", &self.source_app),
            ("source_version", &self.source_version),
            ("source_cluster", &self.source_cluster),
            ("destination_service", &self.destination_service),
            (
                "destination_service_namespace",
                &self.destination_service_namespace,
            ),
            ("destination_service_name", &self.destination_service_name),
            ("destination_workload", &self.destination_workload),
            (
                "destination_canonical_service",
                &self.destination_canonical_service,
            ),
            (
                "destination_canonical_revision",
                &self.destination_canonical_revision,
            ),
            (
                "destination_workload_namespace",
                &self.destination_workload_namespace,
            ),
            ("destination_principal", &self.destination_principal),
            ("destination_app", &self.destination_app),
            ("destination_version", &self.destination_version),
            ("destination_cluster", &self.destination_cluster),
        ] {
            with(name, label.as_str());
        }
    }
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
pub(super) struct Labels(Arc<Changed<TrafficLabels>>);

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
        Self(Arc::new(Changed::plain(TrafficLabels {
            request_protocol: "tcp",
            response_flags: ResponseFlags::None,
            connection_security_policy: security_policy(connection),
            source_region: source.region.clone(),
            source_zone: source.zone.clone(),
            destination_region: destination.region.clone(),
            destination_zone: destination.zone.clone(),
            ends: Ends::from_facts(connection, source, destination),
        })))
    }

    /// The same with something different about it.
    pub(super) fn changed(&self, changes: LabelChanges) -> Self {
        if changes.is_empty() {
            return self.clone();
        }
        Self(Arc::new(Changed {
            labels: self.0.labels.clone(),
            changes,
        }))
    }

    /// The same connection after it ended like this.
    pub(super) fn ended(&self, flags: ResponseFlags) -> Self {
        if flags == self.0.labels.response_flags {
            return self.clone();
        }
        let mut ended = Changed::clone(&self.0);
        ended.labels.response_flags = flags;
        Self(Arc::new(ended))
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

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_runtime::metrics::Registry;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Two;

    impl Labelled for Two {
        fn each(&self, with: &mut dyn FnMut(&'static str, &str)) {
            with("a", "1");
            with("b", "2");
        }
    }

    #[test]
    fn labels_are_put_in_left_out_and_replaced() {
        let page = |changes: &[(&str, Option<&str>)]| {
            let registry = Registry::new();
            let family = Family::<Changed<Two>, Counter>::default();
            registry.register("x", "x", family.clone());
            let changes = changes.iter();
            let changed = Changed {
                labels: Two,
                changes: changes
                    .map(|(name, value)| ((*name).into(), value.map(Text::from)))
                    .collect(),
            };
            family.get_or_create(&changed).inc();
            let page = registry.encode();
            let line = page.lines().find(|line| line.starts_with("x_total"));
            line.unwrap().to_owned()
        };
        assert_eq!(page(&[]), "x_total{a=\"1\",b=\"2\"} 1");
        assert_eq!(page(&[("a", None)]), "x_total{b=\"2\"} 1");
        assert_eq!(
            page(&[("c", Some("3")), ("b", Some("x\"y"))]),
            "x_total{a=\"1\",b=\"x\\\"y\",c=\"3\"} 1"
        );
        assert_eq!(page(&[("a", None), ("b", None)]), "x_total{} 1");
    }
}
