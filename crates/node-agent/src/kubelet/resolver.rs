//! `/etc/resolv.conf`, `/etc/hosts` and host names of pods. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

/// Name servers, search list and options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads resolv.conf(5).
    pub(crate) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.nameservers.extend(words.next().map(str::to_string)),
                Some("search" | "domain") => conf.searches = words.map(str::to_string).collect(),
                Some("options") => conf.options.extend(words.map(str::to_string)),
                _ => {}
            }
        }
        conf
    }

    /// The file's text.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// The cluster's DNS as pods use it.
#[derive(Debug, Clone)]
pub(crate) struct ClusterDns<'a> {
    pub servers: &'a [IpAddr],
    pub domain: &'a str,
}

/// A pod's resolver by its `dnsPolicy` and `dnsConfig`.
pub(crate) fn resolv_conf(
    pod: &PodSpec,
    namespace: &str,
    cluster: &ClusterDns<'_>,
    node: &ResolvConf,
) -> ResolvConf {
    let host_network = pod.host_network == Some(true);
    let policy = pod.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let in_cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut conf = match policy {
        "None" => ResolvConf::default(),
        _ if in_cluster && !cluster.servers.is_empty() => cluster_first(namespace, cluster, node),
        _ => node.clone(),
    };
    if let Some(extra) = &pod.dns_config {
        append(&mut conf.nameservers, extra.nameservers.iter().flatten());
        append(&mut conf.searches, extra.searches.iter().flatten());
        for option in extra.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            conf.options
                .retain(|existing| existing.split(':').next() != Some(name.as_str()));
            conf.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    conf
}

fn cluster_first(namespace: &str, cluster: &ClusterDns<'_>, node: &ResolvConf) -> ResolvConf {
    let domain = cluster.domain;
    let mut searches = vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.to_string(),
    ];
    append(&mut searches, node.searches.iter());
    ResolvConf {
        nameservers: cluster.servers.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_string()],
    }
}

fn append<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// The pod's host name: `spec.hostname`, else its name, cut to what the kernel takes.
pub(crate) fn hostname(pod: &PodSpec, name: &str) -> String {
    let wanted = pod
        .hostname
        .as_deref()
        .filter(|text| !text.is_empty())
        .unwrap_or(name);
    wanted
        .chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_string()
}

/// The managed `/etc/hosts` of a pod with its own network.
pub(crate) fn hosts(
    hostname: &str,
    subdomain: Option<&str>,
    addresses: &[IpAddr],
    aliases: &[HostAlias],
) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    );
    for address in addresses {
        match subdomain {
            Some(full) => text.push_str(&format!("{address}\t{full}\t{hostname}\n")),
            None => text.push_str(&format!("{address}\t{hostname}\n")),
        }
    }
    text.push_str(&host_aliases(aliases));
    text
}

/// The lines of `spec.hostAliases`, also appended to the node's file for host-network pods.
pub(crate) fn host_aliases(aliases: &[HostAlias]) -> String {
    let mut text = String::new();
    for alias in aliases {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "# comment\nnameserver 9.9.9.9\nsearch example.org\noptions timeout:1\n";

    fn conf(pod: serde_json::Value) -> String {
        let mut pod = pod;
        pod["containers"] = serde_json::json!([]);
        let spec: PodSpec = serde_json::from_value(pod).unwrap();
        let servers = ["10.96.0.10".parse().unwrap()];
        let cluster = ClusterDns {
            servers: &servers,
            domain: "cluster.local",
        };
        resolv_conf(&spec, "ns", &cluster, &ResolvConf::parse(NODE)).render()
    }

    #[test]
    fn policies() {
        let cluster = "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local example.org\noptions ndots:5\n";
        let node = "nameserver 9.9.9.9\nsearch example.org\noptions timeout:1\n";
        assert_eq!(conf(serde_json::json!({})), cluster);
        assert_eq!(conf(serde_json::json!({"hostNetwork": true})), node);
        assert_eq!(
            conf(serde_json::json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})),
            cluster
        );
        assert_eq!(conf(serde_json::json!({"dnsPolicy": "Default"})), node);
        assert_eq!(
            conf(
                serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}})
            ),
            "nameserver 1.1.1.1\noptions ndots:2 edns0\n"
        );
        assert!(
            conf(serde_json::json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}))
                .contains("options ndots:1\n")
        );
    }

    #[test]
    fn names() {
        let spec = PodSpec {
            hostname: Some("web".into()),
            ..Default::default()
        };
        assert_eq!(hostname(&spec, "p"), "web");
        assert_eq!(hostname(&PodSpec::default(), &"a".repeat(80)).len(), 63);
        let text = hosts(
            "p",
            None,
            &["10.0.0.2".parse().unwrap()],
            &[HostAlias {
                ip: "1.2.3.4".into(),
                hostnames: Some(vec!["x".into()]),
            }],
        );
        assert!(text.contains("10.0.0.2\tp\n") && text.ends_with("1.2.3.4\tx\n"));
    }
}
