//! From a question to an answer, without any I/O.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Found, Zone};

/// Seconds that an answer may be kept.
const TTL: u32 = 5;
/// The most aliases that lead on to each other.
const MAX_ALIASES: usize = 8;
/// The most bytes we send over UDP, whatever the client accepts.
const MAX_UDP: u16 = 1232;

/// What to do with a message.
#[derive(Debug)]
pub enum Decision {
    /// Send this.
    Answer(Box<Message>),
    /// The name is somebody else's: ask upstream.
    Forward,
}

/// The cluster's domain and how its names are answered.
#[derive(Debug, Clone)]
pub struct Authority {
    domain: Name,
    name_server: Name,
    contact: Name,
}

impl Authority {
    /// The authority for `domain`, such as `cluster.local`.
    ///
    /// # Errors
    /// When `domain` is not a name.
    pub fn new(domain: &str) -> Result<Self, hickory_proto::ProtoError> {
        let mut domain = Name::from_ascii(domain)?.to_lowercase();
        domain.set_fqdn(true);
        let name_server = Name::from_ascii("ns.dns.")?.append_labels(&domain)?;
        let contact = Name::from_ascii("hostmaster.")?.append_labels(&domain)?;
        Ok(Self {
            domain,
            name_server,
            contact,
        })
    }

    /// Decides what happens to `request`.
    pub fn decide(&self, zone: &Zone, request: &Message) -> Decision {
        let mut response = reply_to(request);
        if request.metadata.message_type != MessageType::Query {
            response.metadata.response_code = ResponseCode::FormErr;
            return Decision::Answer(Box::new(response));
        }
        if request.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return Decision::Answer(Box::new(response));
        }
        let [query] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return Decision::Answer(Box::new(response));
        };
        if self.domain.zone_of(query.name()) {
            self.answer(zone, query, &mut response);
            return Decision::Answer(Box::new(response));
        }
        let pointers = self.reverse(zone, query);
        if !pointers.is_empty() {
            response.metadata.authoritative = true;
            response.add_answers(pointers);
            return Decision::Answer(Box::new(response));
        }
        Decision::Forward
    }

    fn answer(&self, zone: &Zone, query: &Query, response: &mut Message) {
        response.metadata.authoritative = true;
        self.find(zone, query.name().clone(), query, response, MAX_ALIASES);
        if response.answers.is_empty() {
            response.add_authority(self.soa());
        }
    }

    /// Adds the records of `name`, which is the one asked for or what an
    /// alias stands for.
    fn find(&self, zone: &Zone, name: Name, query: &Query, response: &mut Message, aliases: usize) {
        let labels = self.labels_of(&name);
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let found = if query.query_class() == DNSClass::IN {
            zone.find(&labels)
        } else {
            Found::Empty
        };
        match found {
            Found::Nothing => response.metadata.response_code = ResponseCode::NXDomain,
            Found::Addresses(addresses) => {
                let records = addresses.iter().map(|a| address_record(&name, *a));
                let wanted = query.query_type();
                let fits = |r: &Record| wanted == RecordType::ANY || r.record_type() == wanted;
                response.add_answers(records.filter(fits));
            }
            Found::Alias(target) => {
                let Ok(mut target) = Name::from_utf8(target) else {
                    return;
                };
                target.set_fqdn(true);
                let alias = RData::CNAME(CNAME(target.clone()));
                response.add_answer(Record::from_rdata(name, TTL, alias));
                // Clients of a resolver do not ask for it themselves.
                if aliases > 0 && self.domain.zone_of(&target) {
                    self.find(zone, target, query, response, aliases - 1);
                }
            }
            Found::Ports(ports)
                if matches!(query.query_type(), RecordType::SRV | RecordType::ANY) =>
            {
                self.add_ports(response, &name, ports);
            }
            Found::Empty if labels.is_empty() => self.apex(query, response),
            Found::Ports(_) | Found::Empty => {}
        }
    }

    /// Records of the domain itself.
    fn apex(&self, query: &Query, response: &mut Message) {
        match query.query_type() {
            RecordType::SOA => {
                response.add_answer(self.soa());
            }
            RecordType::NS => {
                let server = RData::NS(NS(self.name_server.clone()));
                response.add_answer(Record::from_rdata(self.domain.clone(), TTL, server));
            }
            _ => {}
        }
    }

    fn add_ports(
        &self,
        response: &mut Message,
        name: &Name,
        ports: Vec<(u16, String, Vec<IpAddr>)>,
    ) {
        let weight = u16::try_from(100 / ports.len().max(1)).unwrap_or(1).max(1);
        for (port, target, addresses) in ports {
            let Ok(target) = Name::from_ascii(target).and_then(|t| t.append_labels(&self.domain))
            else {
                continue;
            };
            let data = RData::SRV(SRV::new(0, weight, port, target.clone()));
            response.add_answer(Record::from_rdata(name.clone(), TTL, data));
            for address in addresses {
                response.add_additional(address_record(&target, address));
            }
        }
    }

    /// The names of the address that a reverse question asks for.
    fn reverse(&self, zone: &Zone, query: &Query) -> Vec<Record> {
        let net = match query.name().parse_arpa_name() {
            Ok(net) if query.query_type() == RecordType::PTR => net,
            _ => return Vec::new(),
        };
        if net.prefix_len() != net.max_prefix_len() {
            return Vec::new();
        }
        let names = zone.names_of(net.addr()).into_iter();
        let absolute = names.filter_map(|name| {
            Name::from_ascii(name)
                .ok()?
                .append_labels(&self.domain)
                .ok()
        });
        absolute
            .map(|name| Record::from_rdata(query.name().clone(), TTL, RData::PTR(PTR(name))))
            .collect()
    }

    /// Labels of `name` below the domain, in lower case.
    fn labels_of(&self, name: &Name) -> Vec<String> {
        let count = usize::from(name.num_labels()) - usize::from(self.domain.num_labels());
        name.iter()
            .take(count)
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect()
    }

    fn soa(&self) -> Record {
        let data = SOA::new(
            self.name_server.clone(),
            self.contact.clone(),
            1,
            7200,
            1800,
            86400,
            5,
        );
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(data))
    }
}

trait AppendLabels {
    fn append_labels(self, domain: &Name) -> Result<Name, hickory_proto::ProtoError>;
}

impl AppendLabels for Name {
    /// `self` below `domain`, absolute.
    fn append_labels(mut self, domain: &Name) -> Result<Name, hickory_proto::ProtoError> {
        self.set_fqdn(false);
        let mut name = self.append_name(domain)?;
        name.set_fqdn(true);
        Ok(name)
    }
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

/// An empty answer to `request`.
pub fn reply_to(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP);
        response.set_edns(edns);
    }
    response
}

/// `response` in wire format; over UDP cut to what the client takes.
///
/// # Errors
/// When a record cannot be encoded.
pub fn encode(
    response: &Message,
    request: &Message,
    udp: bool,
) -> Result<Vec<u8>, hickory_proto::ProtoError> {
    let bytes = response.to_vec()?;
    let limit = request.max_payload().clamp(512, MAX_UDP);
    if udp && bytes.len() > usize::from(limit) {
        return response.truncate().to_vec();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::zone::tests::zone;
    use super::*;
    use crate::informer::ObjectKey;
    use serde_json::json;

    fn ask(name: &str, kind: RecordType) -> Option<Message> {
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        let authority = Authority::new("cluster.local").expect("a domain");
        match authority.decide(&zone(), &request) {
            Decision::Answer(answer) => Some(*answer),
            Decision::Forward => None,
        }
    }

    fn shown(message: &Message) -> Vec<String> {
        message
            .answers
            .iter()
            .map(|r| format!("{} {}", r.record_type(), r.data))
            .collect()
    }

    #[test]
    fn addresses_in_any_case() {
        let answer = ask("Plain.NS.svc.CLUSTER.local.", RecordType::A).expect("ours");
        assert_eq!(shown(&answer), ["A 10.96.0.5"]);
        assert!(answer.metadata.authoritative);
        let none = ask("plain.ns.svc.cluster.local.", RecordType::AAAA).expect("ours");
        assert_eq!(none.metadata.response_code, ResponseCode::NoError);
        assert!(
            none.answers.is_empty() && none.authorities.len() == 1,
            "no data, with the SOA"
        );
    }

    #[test]
    fn unknown_names_of_ours_do_not_exist_and_others_are_forwarded() {
        let answer = ask("no.ns.svc.cluster.local.", RecordType::A).expect("ours");
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        let answer = ask("example.com.svc.cluster.local.", RecordType::A).expect("ours");
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert!(ask("example.com.", RecordType::A).is_none());
        assert!(ask("5.0.96.10.in-addr.arpa.", RecordType::PTR).is_some());
        assert!(ask("9.0.96.10.in-addr.arpa.", RecordType::PTR).is_none());
        let names = ask("2.0.0.10.in-addr.arpa.", RecordType::PTR).expect("ours");
        assert_eq!(
            shown(&names),
            [
                "PTR 10-0-0-2.headless.ns.svc.cluster.local.",
                "PTR 10-0-0-2.plain.ns.svc.cluster.local."
            ]
        );
    }

    #[test]
    fn ports_come_with_the_addresses_of_their_targets() {
        let answer =
            ask("_http._tcp.headless.ns.svc.cluster.local.", RecordType::SRV).expect("ours");
        assert_eq!(
            shown(&answer),
            [
                "SRV 0 50 8080 web-0.headless.ns.svc.cluster.local.",
                "SRV 0 50 8080 10-0-0-2.headless.ns.svc.cluster.local.",
            ]
        );
        assert_eq!(answer.additionals.len(), 2);
    }

    #[test]
    fn an_external_name_is_an_alias() {
        let answer = ask("outside.ns.svc.cluster.local.", RecordType::A).expect("ours");
        assert_eq!(shown(&answer), ["CNAME example.com."]);
    }

    #[test]
    fn an_alias_of_ours_is_followed_and_never_round_and_round() {
        let mut zone = zone();
        let mut alias = |name: &str, target: &str| {
            let spec = json!({"type": "ExternalName", "externalName": target});
            let entry = super::super::zone::tests::entry(spec, json!([]));
            zone.set(ObjectKey::new("ns", name), Some(entry));
        };
        alias("one", "plain.ns.svc.cluster.local");
        alias("round", "round.ns.svc.cluster.local");
        alias("nowhere", "none.ns.svc.cluster.local");
        let authority = Authority::new("cluster.local").expect("a domain");
        let ask = |name: &str| {
            let mut request = Message::query();
            let name = Name::from_ascii(name).expect("a name");
            request.add_query(Query::query(name, RecordType::A));
            match authority.decide(&zone, &request) {
                Decision::Answer(answer) => *answer,
                Decision::Forward => panic!("forwarded"),
            }
        };
        assert_eq!(
            shown(&ask("one.ns.svc.cluster.local.")),
            ["CNAME plain.ns.svc.cluster.local.", "A 10.96.0.5"]
        );
        let round = ask("round.ns.svc.cluster.local.");
        assert_eq!(round.answers.len(), MAX_ALIASES + 1);
        let nowhere = ask("nowhere.ns.svc.cluster.local.");
        assert_eq!(nowhere.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(nowhere.answers.len(), 1);
    }

    #[test]
    fn what_is_not_a_question_is_refused() {
        let authority = Authority::new("cluster.local").expect("a domain");
        let empty = Message::query();
        let Decision::Answer(answer) = authority.decide(&zone(), &empty) else {
            panic!("forwarded")
        };
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    }

    #[test]
    fn long_answers_are_cut_over_udp_only() {
        let mut request = Message::query();
        let name = Name::from_ascii("a.").expect("a name");
        request.add_query(Query::query(name.clone(), RecordType::A));
        let mut response = reply_to(&request);
        for last in 0..200 {
            response.add_answer(address_record(&name, [10, 0, 0, last].into()));
        }
        let udp = encode(&response, &request, true).expect("bytes");
        let cut = Message::from_vec(&udp).expect("a message");
        assert!(cut.metadata.truncation && udp.len() <= 512);
        assert!(encode(&response, &request, false).expect("bytes").len() > 512);
    }
}
