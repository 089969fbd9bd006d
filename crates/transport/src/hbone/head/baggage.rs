//! The `baggage` header: the facts about a workload that its peer needs for telemetry.

use std::fmt;

use ambit_model::Workload;
use ambit_model::workload::WorkloadType;
use http::HeaderMap;

use super::BAGGAGE;

/// What one side tells the other about its workload. All of it is unverified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// Cluster id.
    pub cluster: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Name of the owner of the workload, with its type.
    pub workload: Option<(WorkloadType, String)>,
    /// Canonical service name.
    pub service: Option<String>,
    /// Canonical revision.
    pub version: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Zone.
    pub zone: Option<String>,
}

const WORKLOAD_KEYS: [(&str, WorkloadType); 4] = [
    ("k8s.deployment.name", WorkloadType::Deployment),
    ("k8s.cronjob.name", WorkloadType::CronJob),
    ("k8s.pod.name", WorkloadType::Pod),
    ("k8s.job.name", WorkloadType::Job),
];

impl From<&Workload> for Baggage {
    fn from(w: &Workload) -> Self {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Self {
            cluster: some(&w.cluster_id),
            namespace: some(&w.namespace),
            workload: some(&w.workload_name).map(|name| (w.workload_type, name)),
            service: some(&w.canonical_name),
            version: some(&w.canonical_revision),
            region: some(&w.locality.region),
            zone: some(&w.locality.zone),
        }
    }
}

impl Baggage {
    /// Reads all `baggage` lines. A line that is not text voids the whole.
    pub(in super::super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let lines: Result<Vec<&str>, _> = headers
            .get_all(&BAGGAGE)
            .iter()
            .map(|v| v.to_str())
            .collect();
        let lines = lines.ok().filter(|lines| !lines.is_empty())?;
        Some(Self::parse(lines.into_iter()))
    }

    /// Parses header values. Unknown keys are ignored, empty values unset, and the later one wins.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut baggage = Self::default();
        for (key, value) in lines
            .flat_map(|l| l.split(','))
            .filter_map(|item| item.split_once('='))
        {
            baggage.set(key.trim(), value.trim());
        }
        baggage
    }

    fn set(&mut self, key: &str, value: &str) {
        let some = (!value.is_empty()).then(|| value.to_owned());
        match key {
            "k8s.cluster.name" => self.cluster = some,
            "k8s.namespace.name" => self.namespace = some,
            "service.name" => self.service = some,
            "service.version" => self.version = some,
            "cloud.region" => self.region = some,
            "cloud.availability_zone" => self.zone = some,
            _ => {
                if let Some((_, kind)) = WORKLOAD_KEYS.iter().find(|(name, _)| *name == key) {
                    self.workload = some.map(|name| (*kind, name));
                }
            }
        }
    }
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload_key = |kind| {
            WORKLOAD_KEYS
                .iter()
                .find(|(_, k)| *k == kind)
                .map(|(key, _)| *key)
        };
        let workload = self.workload.as_ref();
        let items = [
            (Some("k8s.cluster.name"), self.cluster.as_deref()),
            (Some("k8s.namespace.name"), self.namespace.as_deref()),
            (
                workload.and_then(|w| workload_key(w.0)),
                workload.map(|w| w.1.as_str()),
            ),
            (Some("service.name"), self.service.as_deref()),
            (Some("service.version"), self.version.as_deref()),
            (Some("cloud.region"), self.region.as_deref()),
            (Some("cloud.availability_zone"), self.zone.as_deref()),
        ];
        let mut separator = "";
        for (key, value) in items {
            if let (Some(key), Some(value)) = (key, value.filter(|v| !v.is_empty())) {
                write!(f, "{separator}{key}={value}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn order_and_keys_on_the_wire() {
        let workload = Workload {
            cluster_id: "c1".into(),
            namespace: "shop".into(),
            workload_name: "cart".into(),
            canonical_name: "cart".into(),
            canonical_revision: "v2".into(),
            locality: ambit_model::workload::Locality {
                region: "eu-1".into(),
                zone: "eu-1b".into(),
                subzone: "".into(),
            },
            ..Workload::default()
        };
        let baggage = Baggage::from(&workload);
        let wire = "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=cart,\
                    service.name=cart,service.version=v2,cloud.region=eu-1,\
                    cloud.availability_zone=eu-1b";
        assert_eq!(baggage.to_string(), wire);
        assert_eq!(Baggage::parse([wire].into_iter()), baggage);
    }

    #[test]
    fn later_wins_and_empty_unsets() {
        let b =
            Baggage::parse(["service.name=a,x=y,service.name=b", "cloud.region=,junk"].into_iter());
        assert_eq!(b.service.as_deref(), Some("b"));
        assert_eq!(b.region, None);
    }

    #[test]
    fn a_line_that_is_not_text_voids_the_whole() {
        let mut headers = HeaderMap::new();
        headers.append(BAGGAGE, "service.name=a".parse().unwrap());
        assert!(Baggage::from_headers(&headers).is_some());
        headers.append(BAGGAGE, http::HeaderValue::from_bytes(b"x=\xff").unwrap());
        assert_eq!(Baggage::from_headers(&headers), None);
    }

    proptest! {
        #[test]
        fn survives_the_wire(
            namespace in proptest::option::of("[a-z0-9-]{1,20}"),
            name in "[a-z0-9.-]{1,20}",
            kind in 0usize..4,
            version in proptest::option::of("[!-+\\--<>-~]{1,20}"),
        ) {
            let baggage = Baggage {
                namespace,
                workload: Some((WORKLOAD_KEYS[kind].1, name)),
                version,
                ..Baggage::default()
            };
            prop_assert_eq!(Baggage::parse([baggage.to_string().as_str()].into_iter()), baggage);
        }
    }
}
