//! One DNS message: what it asks, and the answer that the mesh has.

use ambit_model::Workload;
use ambit_model::dns::{Answer, Family, Settings, answer};
use ambit_model::state::MeshState;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rand::seq::SliceRandom;

use super::DnsConfig;

/// Seconds that a client may keep an answer.
const TTL: u32 = 30;
/// What every client can take over UDP without saying so.
const SMALLEST_PAYLOAD: u16 = 512;
/// Bytes of a header: less is no message at all.
const HEADER: usize = 12;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A question that can be answered.
pub(super) struct Question {
    request: Message,
    name: Name,
    kind: RecordType,
}

/// What to do with a question.
pub(super) enum Outcome {
    Answer {
        bytes: Vec<u8>,
        result: &'static str,
    },
    Forward,
}

/// Reads a message; an error is the answer to one that is no question, if it gets any.
pub(super) fn read(bytes: &[u8]) -> Result<Question, Option<Vec<u8>>> {
    let refuse = |op_code, code| {
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        Err(Message::error_msg(id, op_code, code).to_vec().ok())
    };
    if bytes.len() < HEADER {
        return Err(None);
    }
    let Ok(request) = Message::from_vec(bytes) else {
        return refuse(OpCode::Query, ResponseCode::FormErr);
    };
    let op_code = request.metadata.op_code;
    if request.metadata.message_type == MessageType::Response {
        return refuse(op_code, ResponseCode::FormErr);
    }
    if op_code != OpCode::Query {
        return refuse(op_code, ResponseCode::NotImp);
    }
    let [query] = &request.queries[..] else {
        return refuse(op_code, ResponseCode::FormErr);
    };
    let name = query.name().to_lowercase();
    // The mesh has names of the Internet class only; others go where they would have gone.
    let kind = match query.query_class() {
        DNSClass::IN => query.query_type(),
        _ => RecordType::ANY,
    };
    Ok(Question {
        request,
        name,
        kind,
    })
}

impl Question {
    /// Type that is asked for.
    pub(super) fn kind(&self) -> RecordType {
        self.kind
    }

    /// Name that is asked for, in lower case.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// `SERVFAIL`.
    pub(super) fn server_failure(&self) -> Option<Vec<u8>> {
        let mut reply = self.reply();
        reply.metadata.response_code = ResponseCode::ServFail;
        reply.to_vec().ok()
    }

    fn reply(&self) -> Message {
        let asked = &self.request.metadata;
        let mut reply = Message::response(asked.id, asked.op_code);
        reply.metadata.recursion_desired = asked.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_queries(self.request.queries.iter().cloned());
        if let Some(edns) = &self.request.edns {
            let mut own = hickory_proto::op::Edns::new();
            own.set_max_payload(edns.max_payload().max(SMALLEST_PAYLOAD))
                .set_version(edns.version())
                .set_dnssec_ok(edns.flags().dnssec_ok);
            reply.set_edns(own);
        }
        reply
    }

    /// Answers from the mesh, if it knows the name.
    pub(super) fn resolve(
        &self,
        state: &MeshState,
        client: &Workload,
        config: &DnsConfig,
        transport: Transport,
    ) -> Outcome {
        let family = match self.kind {
            RecordType::A => Family::V4,
            RecordType::AAAA => Family::V6,
            _ => return Outcome::Forward,
        };
        let settings = Settings {
            cluster_domain: &config.cluster_domain,
            network: &config.network,
            preferred_namespace: config.preferred_namespace.as_deref(),
            ipv6: config.ipv6,
        };
        let name = self.name.to_ascii();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let (records, result) = match answer(state, client, name, family, &settings) {
            Answer::Forward => return Outcome::Forward,
            Answer::Empty { unsupported: false } => (Vec::new(), "no records"),
            Answer::Empty { unsupported: true } => {
                (Vec::new(), "service does not support this record type")
            }
            Answer::Addresses {
                alias,
                mut addresses,
            } => {
                addresses.shuffle(&mut rand::rng());
                (self.records(alias, &addresses), "success")
            }
        };
        let mut reply = self.reply();
        reply.metadata.authoritative = true;
        reply.insert_answers(records);
        match self.encode(&reply, transport) {
            Some(bytes) => Outcome::Answer { bytes, result },
            None => Outcome::Forward,
        }
    }

    fn records(&self, alias: Option<String>, addresses: &[std::net::IpAddr]) -> Vec<Record> {
        let mut records = Vec::with_capacity(addresses.len() + 1);
        let mut owner = self.name.clone();
        if let Some(target) = alias.and_then(|alias| Name::from_ascii(format!("{alias}.")).ok()) {
            let cname = RData::CNAME(CNAME(target.clone()));
            records.push(Record::from_rdata(owner, TTL, cname));
            owner = target;
        }
        records.extend(addresses.iter().map(|ip| {
            let data = match ip {
                std::net::IpAddr::V4(ip) => RData::A(A(*ip)),
                std::net::IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
            };
            Record::from_rdata(owner.clone(), TTL, data)
        }));
        records
    }

    /// The bytes of an answer; over UDP no longer than what the client can take.
    fn encode(&self, reply: &Message, transport: Transport) -> Option<Vec<u8>> {
        let bytes = reply.to_vec().ok()?;
        let most = match transport {
            Transport::Udp => self.request.max_payload().max(SMALLEST_PAYLOAD),
            Transport::Tcp => u16::MAX,
        };
        if bytes.len() <= usize::from(most) {
            return Some(bytes);
        }
        reply.truncate().to_vec().ok()
    }
}
