//! Which tokens are believed: messages to model and back.

use ambit_model::Text;
use ambit_model::token::{Authentication, Place, TokenRule};

use crate::convert_access::attachment;
use crate::l7 as pb;

impl From<pb::Authentication> for Authentication {
    /// A place that is not known is left out: the token that stands there is not believed.
    fn from(m: pb::Authentication) -> Self {
        Self {
            namespace: m.namespace.into(),
            name: m.name.into(),
            attachments: m.attachments.into_iter().filter_map(attachment).collect(),
            rules: m.rules.into_iter().map(rule).collect(),
        }
    }
}

fn rule(m: pb::TokenRule) -> TokenRule {
    let texts = |list: Vec<String>| list.into_iter().map(Text::from).collect();
    let claim = |m: pb::ClaimHeader| (m.header.into(), texts(m.path));
    TokenRule {
        issuer: m.issuer.into(),
        audiences: texts(m.audiences),
        keys: m.keys.into(),
        places: m.places.into_iter().filter_map(place).collect(),
        forward: m.forward,
        payload_header: (!m.payload_header.is_empty()).then(|| m.payload_header.into()),
        claim_headers: m.claim_headers.into_iter().map(claim).collect(),
        word_claims: texts(m.word_claims),
        required: m.required,
    }
}

fn place(m: pb::Place) -> Option<Place> {
    use pb::place::Kind;
    Some(match m.kind? {
        Kind::Header(header) => Place::Header(header.name.into(), header.value.into()),
        Kind::Parameter(name) => Place::Parameter(name.into()),
        Kind::Cookie(name) => Place::Cookie(name.into()),
    })
}

impl From<&Authentication> for pb::Authentication {
    fn from(authentication: &Authentication) -> Self {
        Self {
            namespace: authentication.namespace.to_string(),
            name: authentication.name.to_string(),
            attachments: authentication.attachments.iter().map(Into::into).collect(),
            rules: authentication.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&TokenRule> for pb::TokenRule {
    fn from(rule: &TokenRule) -> Self {
        let texts = |list: &[Text]| list.iter().map(ToString::to_string).collect();
        let claim = |(header, path): &(Text, Vec<Text>)| pb::ClaimHeader {
            header: header.to_string(),
            path: texts(path),
        };
        Self {
            issuer: rule.issuer.to_string(),
            audiences: texts(&rule.audiences),
            keys: rule.keys.to_string(),
            places: rule.places.iter().map(Into::into).collect(),
            forward: rule.forward,
            payload_header: rule
                .payload_header
                .as_deref()
                .unwrap_or_default()
                .to_owned(),
            claim_headers: rule.claim_headers.iter().map(claim).collect(),
            word_claims: texts(&rule.word_claims),
            required: rule.required,
        }
    }
}

impl From<&Place> for pb::Place {
    fn from(place: &Place) -> Self {
        use pb::place::Kind;
        let kind = match place {
            Place::Header(name, prefix) => Kind::Header(pb::Header {
                name: name.to_string(),
                value: prefix.to_string(),
            }),
            Place::Parameter(name) => Kind::Parameter(name.to_string()),
            Place::Cookie(name) => Kind::Cookie(name.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::access::Attachment;
    use ambit_model::token::usual_places;

    #[test]
    fn what_is_sent_is_what_is_read() {
        let mut places = usual_places();
        places.push(Place::Cookie("c".into()));
        let authentication = Authentication {
            namespace: "shop".into(),
            name: "a".into(),
            attachments: vec![Attachment::Class("istio-waypoint".into())],
            rules: vec![TokenRule {
                issuer: "i".into(),
                audiences: vec!["a".into()],
                keys: "{}".into(),
                places,
                forward: true,
                payload_header: Some("x-payload".into()),
                claim_headers: vec![("x-a".into(), vec!["a".into(), "b".into()])],
                word_claims: vec!["scope".into()],
                required: true,
            }],
        };
        let read = Authentication::from(pb::Authentication::from(&authentication));
        assert_eq!(read, authentication);
    }
}
