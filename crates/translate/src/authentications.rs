//! `RequestAuthentication` → [`Authentication`].

use std::collections::BTreeMap;

use ambit_kube_api::RequestAuthentication;
use ambit_kube_api::security::request_authentication::{JwtRule, RequestAuthenticationSpec};
use ambit_kube_api::selector::PolicyTargetReference;
use ambit_model::Text;
use ambit_model::token::{Authentication, Place, TokenRule, usual_places};

use crate::findings::{Code, Finding};
use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};
use crate::mesh::Mesh;
use crate::policies::attachments;

/// What is known about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthenticationFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels of the object itself.
    pub labels: Labels,
    /// Version of the object, for its status.
    pub generation: Option<i64>,
    spec: RequestAuthenticationSpec,
}

/// Where keys that do not stand in the object come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeySource {
    /// This address (`jwksUri`).
    Uri(Text),
    /// What the issuer at this address says of itself.
    Issuer(Text),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uri(uri) => write!(f, "{uri}"),
            Self::Issuer(issuer) => write!(f, "the issuer {issuer}"),
        }
    }
}

/// The keys that have been fetched.
pub type FetchedKeys = BTreeMap<KeySource, Text>;

/// An object as it is sent to waypoints, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthenticationTranslation {
    /// What is sent, if anything.
    pub authentication: Option<Authentication>,
    /// What is to be said.
    pub findings: Vec<Finding>,
}

impl AuthenticationFacts {
    /// The facts about an object.
    pub fn of(object: &RequestAuthentication) -> Self {
        Self {
            key: ObjectKey::of(object),
            labels: labels_from(object.metadata.labels.as_ref()),
            generation: object.metadata.generation,
            spec: object.spec.clone(),
        }
    }

    /// Where its keys come from that do not stand in it.
    pub fn key_sources(&self) -> impl Iterator<Item = KeySource> {
        self.spec.jwt_rules.iter().filter_map(key_source)
    }

    /// The objects that it is attached to.
    pub fn targets(&self) -> impl Iterator<Item = &PolicyTargetReference> {
        self.spec.target_ref.iter().chain(&self.spec.target_refs)
    }
}

/// The object as it is sent to waypoints.
pub fn translate(
    mesh: &Mesh,
    facts: &AuthenticationFacts,
    fetched: &FetchedKeys,
) -> AuthenticationTranslation {
    let mut findings = Vec::new();
    let attachments = attachments(mesh, &facts.key.namespace, facts.targets(), &mut findings);
    if facts.targets().next().is_none() {
        let message = "without targetRefs no waypoint looks at it";
        findings.push(Finding::new(
            Code::InvalidTarget,
            "spec.targetRefs",
            message,
        ));
    }
    let numbered = facts.spec.jwt_rules.iter().enumerate();
    let rules = numbered
        .map(|(i, api)| rule(i, api, fetched, &mut findings))
        .collect();
    let authentication = Authentication {
        namespace: facts.key.namespace.clone(),
        name: facts.key.name.clone(),
        attachments,
        rules,
    };
    AuthenticationTranslation {
        authentication: (!authentication.attachments.is_empty()).then_some(authentication),
        findings,
    }
}

fn key_source(rule: &JwtRule) -> Option<KeySource> {
    let is_address = |text: &str| text.starts_with("https://") || text.starts_with("http://");
    match (rule.jwks.as_str(), rule.keys_uri()) {
        ("", "") => {
            is_address(&rule.issuer).then(|| KeySource::Issuer(rule.issuer.as_str().into()))
        }
        ("", uri) => Some(KeySource::Uri(uri.into())),
        _ => None,
    }
}

/// The keys of a rule; without any no token of its issuer is believed.
fn keys(api: &JwtRule, fetched: &FetchedKeys) -> Result<Text, &'static str> {
    if !api.jwks.is_empty() {
        return match is_key_set(&api.jwks) {
            true => Ok(api.jwks.as_str().into()),
            false => Err("it is no JSON Web Key Set"),
        };
    }
    let source = key_source(api).ok_or("it has no keys, and its issuer is no address")?;
    let keys = fetched.get(&source);
    keys.cloned()
        .ok_or("its keys have not been fetched yet; istiod's log says why")
}

fn rule(
    index: usize,
    api: &JwtRule,
    fetched: &FetchedKeys,
    findings: &mut Vec<Finding>,
) -> TokenRule {
    let path = format!("spec.jwtRules[{index}]");
    let texts = |list: &[String]| -> Vec<Text> { list.iter().map(|t| t.as_str().into()).collect() };
    let lower = |name: &str| Text::from(name.to_ascii_lowercase());
    let headers = api.from_headers.iter();
    let headers = headers.map(|h| Place::Header(lower(&h.name), h.prefix.as_str().into()));
    let parameters = texts(&api.from_params).into_iter().map(Place::Parameter);
    let cookies = texts(&api.from_cookies).into_iter().map(Place::Cookie);
    let mut places: Vec<Place> = headers.chain(parameters).chain(cookies).collect();
    if places.is_empty() {
        places = usual_places();
    }
    let keys = keys(api, fetched).unwrap_or_else(|message| {
        findings.push(Finding::new(Code::NoKeys, format!("{path}.jwks"), message));
        Text::default()
    });
    let claims = api.output_claim_to_headers.iter();
    let claims = claims.map(|c| {
        (
            lower(&c.header),
            c.claim.split('.').map(Text::from).collect(),
        )
    });
    TokenRule {
        issuer: api.issuer.as_str().into(),
        audiences: texts(&api.audiences),
        keys,
        places,
        forward: api.forward_original_token,
        payload_header: (!api.output_payload_to_header.is_empty())
            .then(|| lower(&api.output_payload_to_header)),
        claim_headers: claims.collect(),
        word_claims: texts(&api.space_delimited_claims),
        required: api.presence.as_deref() == Some("REQUIRED"),
    }
}

/// The text is a JSON Web Key Set (RFC 7517, 5).
pub fn is_key_set(text: &str) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_str(text).ok();
    value.is_some_and(|value| value["keys"].is_array())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(spec: serde_json::Value) -> AuthenticationTranslation {
        let object = json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": spec});
        let facts = AuthenticationFacts::of(&serde_json::from_value(object).unwrap());
        let uri = KeySource::Uri("https://keys".into());
        let fetched = [(uri, "{\"keys\": [1]}".into())].into();
        translate(&Mesh::default(), &facts, &fetched)
    }

    #[test]
    fn what_people_write() {
        insta::assert_debug_snapshot!(of(json!({
            "targetRefs": [{"kind": "Service", "name": "reviews"}],
            "jwtRules": [
                {"issuer": "a", "jwks": "{\"keys\": []}", "audiences": ["x"], "forwardOriginalToken": true},
                {
                    "issuer": "b", "jwks": "{\"keys\": []}", "presence": "REQUIRED",
                    "fromHeaders": [{"name": "X-Token", "prefix": "t "}], "fromCookies": ["c"],
                    "outputPayloadToHeader": "X-Payload", "spaceDelimitedClaims": ["scope"],
                    "outputClaimToHeaders": [{"header": "X-Sub", "claim": "a.sub"}]
                }
            ]
        })));
    }

    #[test]
    fn without_keys_it_says_so() {
        let codes = |spec| of(spec).findings.iter().map(|f| f.code).collect::<Vec<_>>();
        let rule = |rule: serde_json::Value| {
            codes(json!({"targetRefs": [{"kind": "Service", "name": "r"}], "jwtRules": [rule]}))
        };
        assert_eq!(rule(json!({"issuer": "a"})), [Code::NoKeys]);
        assert_eq!(rule(json!({"issuer": "a", "jwks": "x"})), [Code::NoKeys]);
        assert_eq!(
            rule(json!({"issuer": "a", "jwksUri": "http://x"})),
            [Code::NoKeys]
        );
        assert_eq!(rule(json!({"issuer": "https://a"})), [Code::NoKeys]);
        assert_eq!(rule(json!({"issuer": "a", "jwksUri": "https://keys"})), []);
        assert_eq!(codes(json!({"jwtRules": []})), [Code::InvalidTarget]);
    }
}
