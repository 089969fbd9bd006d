//! Responses made of resources that were encoded before.
//!
//! A repeated message field and a repeated bytes field look alike on the wire, so a resource that
//! was encoded once goes into any number of responses as shared bytes.

use ambit_proto::discovery as pb;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// `DeltaDiscoveryResponse` with its resources already encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncodedResponse {
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// Encodes a resource, without aliases.
pub(super) fn encode_resource(name: &str, version: &str, type_url: &str, body: Bytes) -> Bytes {
    let resource = pb::Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(pb::Any {
            type_url: type_url.to_owned(),
            value: body,
        }),
        aliases: Vec::new(),
    };
    resource.encode_to_vec().into()
}

/// Adds aliases to an encoded resource: fields of one message may come in any order and in parts.
pub(super) fn with_aliases<'a>(encoded: &Bytes, aliases: impl Iterator<Item = &'a str>) -> Bytes {
    let aliases: Vec<String> = aliases.map(str::to_owned).collect();
    if aliases.is_empty() {
        return encoded.clone();
    }
    let tail = pb::Resource {
        aliases,
        ..Default::default()
    }
    .encode_to_vec();
    let mut joined = BytesMut::with_capacity(encoded.len() + tail.len());
    joined.put_slice(encoded);
    joined.put_slice(&tail);
    joined.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_response_is_a_response() {
        let resource = encode_resource("a/b", "1f", "type", Bytes::from_static(b"body"));
        let resource = with_aliases(&resource, ["/10.0.0.1"].into_iter());
        let encoded = EncodedResponse {
            system_version_info: "v".to_owned(),
            resources: vec![resource],
            type_url: "type".to_owned(),
            nonce: "7".to_owned(),
            removed_resources: vec!["gone".to_owned()],
        };
        let decoded =
            pb::DeltaDiscoveryResponse::decode(encoded.encode_to_vec().as_slice()).unwrap();
        assert_eq!(
            (decoded.type_url.as_str(), decoded.nonce.as_str()),
            ("type", "7")
        );
        assert_eq!(decoded.removed_resources, ["gone"]);
        let resource = &decoded.resources[0];
        assert_eq!(
            (resource.name.as_str(), resource.version.as_str()),
            ("a/b", "1f")
        );
        assert_eq!(resource.aliases, ["/10.0.0.1"]);
        let any = resource.resource.as_ref().unwrap();
        assert_eq!(
            (any.type_url.as_str(), &any.value[..]),
            ("type", &b"body"[..])
        );
    }
}
