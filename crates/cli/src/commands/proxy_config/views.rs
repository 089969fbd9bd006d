//! The views of a waypoint's dump.

use serde_json::Value;

use super::envoy;
use crate::commands::output::table;
use crate::commands::ztunnel_config::dump::{Dump, addresses, text, texts, vips};
use crate::commands::ztunnel_config::{View, certificates};

/// Which services are shown.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Their host names contain this.
    pub host: Option<String>,
    /// One port.
    pub port: Option<u16>,
}

impl Filter {
    fn passes(&self, port: &Port<'_>) -> bool {
        let host = self.host.as_deref();
        host.is_none_or(|part| port.host().contains(part))
            && self.port.is_none_or(|p| p == port.port)
    }

    /// The same of what is called `inbound-vip|port|protocol|host`.
    pub fn passes_name(&self, name: &str) -> bool {
        let mut words = name.split('|').skip(1);
        let (port, host) = (words.next(), words.nth(1).unwrap_or(name));
        let port = port.and_then(|port| port.parse().ok());
        self.host.as_deref().is_none_or(|part| host.contains(part))
            && self.port.is_none_or(|wanted| Some(wanted) == port)
    }
}

/// A port of a service.
struct Port<'a> {
    service: &'a Value,
    port: u16,
}

impl Port<'_> {
    fn host(&self) -> &str {
        text(self.service, "hostname")
    }

    /// As Istio names what a waypoint sends to.
    fn cluster(&self) -> String {
        format!("inbound-vip|{}|http|{}", self.port, self.host())
    }

    /// `namespace/hostname`.
    fn key(&self) -> String {
        format!("{}/{}", text(self.service, "namespace"), self.host())
    }
}

/// Ports of services, in order; only of those that the waypoint serves, where that is asked.
fn ports<'a>(dump: &'a Dump, filter: &Filter, served: bool) -> Vec<Port<'a>> {
    let own = &dump.raw()["serves"];
    let mut all: Vec<Port<'a>> = Vec::new();
    for service in &dump.services {
        let ports = service["ports"].as_object().into_iter().flatten();
        all.extend(ports.filter_map(|(port, _)| {
            let port = port.parse().ok()?;
            Some(Port { service, port })
        }));
    }
    all.retain(|port| filter.passes(port) && (!served || own[port.key()].is_object()));
    all.sort_by_key(|port| (port.key(), port.port));
    all
}

fn view(header: &[&str], rows: Vec<Vec<String>>, objects: Value) -> View {
    View {
        table: table(header, &rows, 1),
        objects,
    }
}

/// What is accepted, and where it leads.
pub fn listeners(dump: &Dump, filter: &Filter) -> View {
    let header = ["ADDRESSES", "PORT", "MATCH", "DESTINATION"];
    let mut rows = vec![["*", "15008", "ALL", "HBONE"].map(str::to_owned).to_vec()];
    for port in ports(dump, filter, true) {
        let spoken = text(&dump.raw()["serves"][port.key()], &port.port.to_string());
        let leads = match spoken {
            "TCP" => "Cluster",
            _ => "Route",
        };
        rows.push(vec![
            vips(port.service).collect::<Vec<_>>().join(","),
            port.port.to_string(),
            spoken.to_owned(),
            format!("{leads}: {}", port.cluster()),
        ]);
    }
    view(&header, rows, envoy::listeners(dump))
}

/// The rules of each port that the waypoint serves; without routes everything goes on.
pub fn routes(dump: &Dump, filter: &Filter) -> View {
    let header = ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"];
    let all: Vec<&Value> = dump.raw()["routes"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let mut rows = Vec::new();
    for port in ports(dump, filter, true) {
        let (any, one) = (port.key(), format!("{}:{}", port.key(), port.port));
        let of_port = all
            .iter()
            .filter(|r| texts(r, "parents").any(|p| p == any || p == one));
        let row = |matched: &str, name: &str| {
            let host = port.host().to_owned();
            vec![
                port.cluster(),
                host,
                "*".to_owned(),
                matched.to_owned(),
                name.to_owned(),
            ]
        };
        let before = rows.len();
        for route in of_port {
            let name = format!("{}.{}", text(route, "name"), text(route, "namespace"));
            for rule in route["rules"].as_array().into_iter().flatten() {
                let mut matches = texts(rule, "matches").peekable();
                if matches.peek().is_none() {
                    rows.push(row("/*", &name));
                }
                rows.extend(matches.map(|matched| row(matched, &name)));
            }
        }
        if rows.len() == before {
            rows.push(row("/*", ""));
        }
    }
    view(&header, rows, envoy::routes(dump, filter))
}

/// Everything that requests can be sent to.
pub fn clusters(dump: &Dump, filter: &Filter) -> View {
    let header = [
        "SERVICE FQDN",
        "PORT",
        "SUBSET",
        "DIRECTION",
        "TYPE",
        "DESTINATION RULE",
    ];
    // `name.namespace` of the rule that holds, as Istio writes it.
    let traffic = &dump.raw()["trafficPolicies"];
    let row = |port: &Port<'_>| {
        let host = port.host().to_owned();
        let rule = text(traffic, &port.key()).to_owned();
        let rest = ["http", "inbound-vip", "EDS"].map(str::to_owned);
        [vec![host, port.port.to_string()], rest.to_vec(), vec![rule]].concat()
    };
    let rows = ports(dump, filter, false).iter().map(row).collect();
    view(&header, rows, envoy::clusters(dump, filter))
}

/// Where services lead.
pub fn endpoints(dump: &Dump, filter: &Filter) -> View {
    let header = ["NAME", "STATUS", "LOCALITY", "CLUSTER"];
    let mut rows = Vec::new();
    for port in ports(dump, filter, false) {
        let endpoints = port.service["endpoints"].as_object().into_iter().flatten();
        for (key, endpoint) in endpoints {
            let uid = endpoint["workloadUid"].as_str().unwrap_or(key);
            let Some(workload) = dump.workloads.iter().find(|w| text(w, "uid") == uid) else {
                continue;
            };
            let target = &endpoint["port"][port.port.to_string()];
            let default = &port.service["ports"][port.port.to_string()];
            let target = target.as_u64().or(default.as_u64()).unwrap_or_default();
            let locality = &workload["locality"];
            let place = ["region", "zone", "subzone"].map(|part| text(locality, part));
            let place: Vec<&str> = place.into_iter().filter(|part| !part.is_empty()).collect();
            let status = match text(workload, "status") {
                "Healthy" => "HEALTHY",
                _ => "UNHEALTHY",
            };
            rows.extend(addresses(workload).map(|address| {
                vec![
                    format!("{address}:{target}"),
                    status.to_owned(),
                    place.join("/"),
                    port.cluster(),
                ]
            }));
        }
    }
    view(&header, rows, envoy::endpoints(dump, filter))
}

/// Policies on requests.
pub fn policies(dump: &Dump) -> View {
    let header = [
        "NAMESPACE",
        "POLICY NAME",
        "ACTION",
        "DRY RUN",
        "RULES",
        "ATTACHED TO",
    ];
    let all = dump.raw()["accessPolicies"]
        .as_array()
        .into_iter()
        .flatten();
    let row = |policy: &Value| {
        vec![
            text(policy, "namespace").to_owned(),
            text(policy, "name").to_owned(),
            text(policy, "action").to_owned(),
            policy["dryRun"].to_string(),
            policy["rules"].to_string(),
            texts(policy, "attachments").collect::<Vec<_>>().join(","),
        ]
    };
    view(
        &header,
        all.map(row).collect(),
        dump.raw()["accessPolicies"].clone(),
    )
}

/// What the waypoint was started with.
pub fn settings(dump: &Dump) -> View {
    let header = ["SETTING", "VALUE", "FROM"];
    let all = dump.raw()["effective"].as_object().into_iter().flatten();
    let row = |(name, setting): (&String, &Value)| {
        vec![
            name.clone(),
            text(setting, "value").to_owned(),
            text(setting, "origin").to_owned(),
        ]
    };
    view(&header, all.map(row).collect(), envoy::bootstrap(dump))
}

/// The certificates that it holds.
pub fn secrets(dump: &Dump) -> View {
    View {
        objects: envoy::secrets(dump),
        ..certificates::view(dump, jiff::Timestamp::now())
    }
}

/// All of it.
pub fn all(dump: &Dump, filter: &Filter) -> View {
    let parts = [
        listeners(dump, filter),
        routes(dump, filter),
        clusters(dump, filter),
        endpoints(dump, filter),
        policies(dump),
        secrets(dump),
    ];
    let tables: Vec<String> = parts.into_iter().map(|part| part.table).collect();
    View {
        objects: envoy::all(dump),
        table: tables.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dump() -> Dump {
        let dump = json!({
            "gateway": {"name": "waypoint"},
            "serves": {"shop/reviews.shop.svc.cluster.local": {"80": "HTTP"}},
            "trafficPolicies": {"shop/reviews.shop.svc.cluster.local": "careful.shop"},
            "services": [
                {
                    "name": "reviews", "namespace": "shop", "hostname": "reviews.shop.svc.cluster.local",
                    "vips": ["/10.96.0.5"], "ports": {"80": 8080},
                    "endpoints": {"u": {"workloadUid": "u", "port": {"80": 9080}}}
                },
                {
                    "name": "other", "namespace": "shop", "hostname": "other.shop.svc.cluster.local",
                    "vips": ["/10.96.0.6"], "ports": {"80": 8080}, "endpoints": {}
                }
            ],
            "workloads": [{"uid": "u", "workloadIps": ["10.0.0.1"], "status": "Healthy"}],
            "routes": [{
                "name": "r", "namespace": "shop", "parents": ["shop/reviews.shop.svc.cluster.local:80"],
                "rules": [{"matches": ["/v2*"]}, {"matches": []}]
            }],
            "accessPolicies": [{
                "namespace": "shop", "name": "p", "action": "Deny", "dryRun": false, "rules": 1,
                "attachments": ["Service(reviews)"]
            }]
        });
        Dump::parse(&dump.to_string()).expect("a dump")
    }

    fn lines(view: &View) -> Vec<String> {
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        view.table.lines().skip(1).map(line).collect()
    }

    #[test]
    fn what_is_served_and_what_is_known() {
        let (dump, all) = (dump(), Filter::default());
        let cluster = "inbound-vip|80|http|reviews.shop.svc.cluster.local";
        let host = "reviews.shop.svc.cluster.local";
        assert_eq!(
            lines(&listeners(&dump, &all)),
            [
                "* 15008 ALL HBONE".to_owned(),
                format!("10.96.0.5 80 HTTP Route: {cluster}")
            ]
        );
        assert_eq!(
            lines(&routes(&dump, &all)),
            [
                format!("{cluster} {host} * /v2* r.shop"),
                format!("{cluster} {host} * /* r.shop")
            ]
        );
        assert_eq!(lines(&clusters(&dump, &all)).len(), 2);
        let rules = lines(&clusters(&dump, &all));
        assert_eq!(
            rules.iter().filter(|l| l.contains("careful.shop")).count(),
            1
        );
        assert_eq!(
            lines(&endpoints(&dump, &all)),
            [format!("10.0.0.1:9080 HEALTHY {cluster}")]
        );
        assert_eq!(
            lines(&policies(&dump)),
            ["shop p Deny false 1 Service(reviews)"]
        );
    }

    #[test]
    fn filters() {
        let dump = dump();
        let host = Filter {
            host: Some("other".into()),
            ..Filter::default()
        };
        assert_eq!(lines(&clusters(&dump, &host)).len(), 1);
        let port = Filter {
            port: Some(81),
            ..Filter::default()
        };
        assert!(lines(&clusters(&dump, &port)).is_empty());
    }
}
