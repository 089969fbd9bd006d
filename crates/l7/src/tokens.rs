//! Tokens of requests (JWT, RFC 7519): found, checked with keys that are here, and read.

use std::collections::HashMap;
use std::sync::Arc;

use ambit_model::Text;
use ambit_model::access::{Claim, Token};
use ambit_model::token::{Authentication, Place, TokenRule};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::{Map, Value};

/// Algorithms that are believed: all with a public key. One with a shared secret would let whoever
/// can check a token make one.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Clocks may differ by so many seconds (Envoy's `clock_skew_seconds`).
const SKEW: u64 = 60;

/// Why a token is refused, in the words that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is none, and there must be one.
    Missing,
    /// It is no token.
    Malformed,
    /// Nobody is known who issues such tokens.
    Issuer,
    /// It is not signed with a key that is known.
    Signature,
    /// Its time is over, or has not come.
    Expired,
    /// It is for somebody else.
    Audience,
}

impl Refusal {
    /// The text of the answer (Envoy's).
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::Malformed => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::Issuer => "Jwt issuer is not configured",
            Self::Signature => "Jwt verification fails",
            Self::Expired => "Jwt is expired",
            Self::Audience => "Audiences in Jwt are not allowed",
        }
    }
}

/// A key that tokens may be signed with.
#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// An object of the user, with its keys ready for use.
#[derive(Clone)]
pub(crate) struct Issuers {
    pub(crate) authentication: Authentication,
    rules: Arc<[IssuerRule]>,
}

/// A rule's keys, and what was signed with them. Other keys make another one.
#[derive(Default)]
struct IssuerRule {
    keys: Vec<Key>,
    checked: Mutex<HashMap<String, Checked>>,
}

/// A token that was checked.
#[derive(Clone)]
struct Checked {
    token: Arc<Token>,
    /// Its claims as they came, in base64url.
    payload: Text,
    /// From when to when it is good, seconds since 1970.
    since: f64,
    until: f64,
}

/// Tokens that are remembered for a rule. A client sends the same one many times; checking a
/// signature costs more than everything else that is done with a request.
const REMEMBERED: usize = 1024;
/// The longest token that is remembered.
const LONGEST: usize = 4096;

impl std::fmt::Debug for Issuers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.authentication.key().fmt(f)
    }
}

impl Issuers {
    /// Reads the keys. Those that cannot be used are left out, and their tokens refused.
    pub(crate) fn new(authentication: Authentication) -> Self {
        let rule = |rule: &TokenRule| IssuerRule {
            keys: keys(&rule.keys),
            ..IssuerRule::default()
        };
        let rules = authentication.rules.iter().map(rule).collect();
        Self {
            authentication,
            rules,
        }
    }

    fn rules(&self) -> impl Iterator<Item = (&TokenRule, &IssuerRule)> + Clone {
        self.authentication.rules.iter().zip(self.rules.iter())
    }
}

fn keys(set: &str) -> Vec<Key> {
    let Ok(set) = serde_json::from_str::<JwkSet>(set) else {
        return Vec::new();
    };
    let key = |jwk: &jsonwebtoken::jwk::Jwk| {
        let algorithm = jwk
            .common
            .key_algorithm
            .and_then(|a| a.to_string().parse().ok());
        Some(Key {
            id: jwk.common.key_id.clone(),
            algorithm,
            key: DecodingKey::from_jwk(jwk).ok()?,
        })
    };
    set.keys.iter().filter_map(key).collect()
}

/// A request as far as tokens are looked for in it.
pub(crate) trait Places {
    /// The value of a header.
    fn header(&self, name: &str) -> Option<String>;
    /// The value of a parameter of the query.
    fn parameter(&self, name: &str) -> Option<String>;
    /// The value of a cookie.
    fn cookie(&self, name: &str) -> Option<String>;
}

/// A token that was checked, and what its rule says about it.
#[derive(Debug)]
pub(crate) struct Believed<'a> {
    /// What it says.
    pub(crate) token: Arc<Token>,
    /// Its claims as they came, in base64url.
    pub(crate) payload: Text,
    /// The rule of its issuer.
    pub(crate) rule: &'a TokenRule,
    /// Where it stood.
    pub(crate) place: &'a Place,
}

/// Looks for tokens and checks them. A request without one passes, unless a rule requires it.
pub(crate) fn check<'a>(
    issuers: impl Iterator<Item = &'a Issuers> + Clone,
    request: &impl Places,
) -> Result<Vec<Believed<'a>>, Refusal> {
    let rules = || issuers.clone().flat_map(Issuers::rules);
    let mut found: HashMap<(&Place, String), ()> = HashMap::new();
    let mut believed: Vec<Believed<'a>> = Vec::new();
    for place in rules().flat_map(|(rule, _)| &rule.places) {
        let Some(text) = at(place, request) else {
            continue;
        };
        if found.insert((place, text.clone()), ()).is_some() {
            continue;
        }
        let looked_for_here = rules().filter(|(rule, _)| rule.places.contains(place));
        believed.push(verify(&text, looked_for_here, place)?);
    }
    let missing = rules()
        .any(|(rule, _)| rule.required && !believed.iter().any(|b| std::ptr::eq(b.rule, rule)));
    match missing {
        true => Err(Refusal::Missing),
        false => Ok(believed),
    }
}

fn at(place: &Place, request: &impl Places) -> Option<String> {
    let text = match place {
        Place::Header(name, prefix) => {
            let value = request.header(name)?;
            value.strip_prefix(&**prefix)?.trim().to_owned()
        }
        Place::Parameter(name) => request.parameter(name)?,
        Place::Cookie(name) => request.cookie(name)?,
    };
    (!text.is_empty()).then_some(text)
}

fn verify<'a>(
    text: &str,
    rules: impl Iterator<Item = (&'a TokenRule, &'a IssuerRule)> + Clone,
    place: &'a Place,
) -> Result<Believed<'a>, Refusal> {
    let believed = |checked: Checked, rule| Believed {
        token: checked.token,
        payload: checked.payload,
        rule,
        place,
    };
    for (rule, keys) in rules.clone() {
        if let Some(checked) = keys.known(text) {
            return checked.if_current().map(|checked| believed(checked, rule));
        }
    }
    let head = decode_header(text).map_err(|_| Refusal::Malformed)?;
    let issuer = unverified_issuer(text).ok_or(Refusal::Malformed)?;
    let mut refusal = Refusal::Issuer;
    for (rule, keys) in rules.filter(|(rule, _)| *rule.issuer == *issuer || rule.issuer.is_empty())
    {
        match keys.check(text, &head, rule) {
            Ok(checked) => return Ok(believed(checked, rule)),
            Err(why) => refusal = why,
        }
    }
    Err(refusal)
}

fn unverified_issuer(text: &str) -> Option<String> {
    use base64::Engine as _;
    let payload = text.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&bytes).ok()?;
    Some(
        claims
            .get("iss")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    )
}

impl IssuerRule {
    /// A token that was checked before.
    fn known(&self, text: &str) -> Option<Checked> {
        self.checked.lock().get(text).cloned()
    }

    /// Checks a token by its signature, and remembers it.
    fn check(
        &self,
        text: &str,
        head: &jsonwebtoken::Header,
        rule: &TokenRule,
    ) -> Result<Checked, Refusal> {
        let claims = signed(text, head, rule, &self.keys)?;
        let time = |name: &str| claims.get(name).and_then(Value::as_f64);
        let checked = Checked {
            token: Arc::new(token(&claims, &rule.word_claims)),
            payload: text.split('.').nth(1).unwrap_or_default().into(),
            since: time("nbf").unwrap_or(f64::NEG_INFINITY),
            until: time("exp").unwrap_or(f64::INFINITY),
        };
        if text.len() <= LONGEST {
            let mut known = self.checked.lock();
            // Starting over now and then is the cheapest way to forget.
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(text.to_owned(), checked.clone());
        }
        Ok(checked)
    }
}

impl Checked {
    /// Time goes on for a token that is remembered (RFC 7519, 4.1.4 and 4.1.5).
    fn if_current(self) -> Result<Self, Refusal> {
        let now = jsonwebtoken::get_current_timestamp() as f64;
        let skew = SKEW as f64;
        match now <= self.until + skew && self.since <= now + skew {
            true => Ok(self),
            false => Err(Refusal::Expired),
        }
    }
}

fn signed(
    text: &str,
    head: &jsonwebtoken::Header,
    rule: &TokenRule,
    keys: &[Key],
) -> Result<Map<String, Value>, Refusal> {
    use jsonwebtoken::errors::ErrorKind;
    if !ALGORITHMS.contains(&head.alg) {
        return Err(Refusal::Signature);
    }
    let mut validation = Validation::new(head.alg);
    validation.leeway = SKEW;
    validation.validate_nbf = true;
    validation.required_spec_claims.clear();
    match rule.audiences.is_empty() {
        true => validation.validate_aud = false,
        false => {
            validation.set_audience(&rule.audiences.iter().map(|a| &**a).collect::<Vec<_>>());
            validation.required_spec_claims.insert("aud".to_owned());
        }
    }
    let fits = |key: &&Key| {
        // A token that names its key is checked with that one alone.
        (head.kid.is_none() || key.id.is_none() || key.id == head.kid)
            && key.algorithm.is_none_or(|algorithm| algorithm == head.alg)
    };
    let mut refusal = Refusal::Signature;
    for key in keys.iter().filter(fits) {
        match decode::<Map<String, Value>>(text, &key.key, &validation) {
            Ok(data) => return Ok(data.claims),
            Err(error) => match error.kind() {
                ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature => {
                    refusal = Refusal::Expired;
                }
                ErrorKind::InvalidAudience | ErrorKind::MissingRequiredClaim(_) => {
                    refusal = Refusal::Audience;
                }
                _ => {}
            },
        }
    }
    Err(refusal)
}

/// What a token says, as policies look at it.
fn token(claims: &Map<String, Value>, word_claims: &[Text]) -> Token {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let principal = match (text("iss"), text("sub")) {
        (Some(issuer), Some(subject)) => format!("{issuer}/{subject}").into(),
        _ => "".into(),
    };
    let audiences = match claims.get("aud") {
        Some(Value::String(one)) => vec![Text::from(one.as_str())],
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_str)
            .map(Text::from)
            .collect(),
        _ => Vec::new(),
    };
    // `scope` is a list of words by its own definition (RFC 8693).
    let words = |name: &str| name == "scope" || word_claims.iter().any(|w| **w == *name);
    let claims = claims.iter().filter_map(|(name, value)| {
        let claim = match value {
            Value::String(text) if words(name) => {
                Claim::List(text.split_whitespace().map(Text::from).collect())
            }
            other => claim(other)?,
        };
        Some((Text::from(name.as_str()), claim))
    });
    Token {
        principal,
        audiences,
        presenter: text("azp").unwrap_or_default().into(),
        claims: claims.collect(),
    }
}

fn claim(value: &Value) -> Option<Claim> {
    Some(match value {
        Value::String(text) => Claim::Text(text.as_str().into()),
        Value::Bool(value) => Claim::Text(value.to_string().into()),
        Value::Number(number) => Claim::Text(number.to_string().into()),
        Value::Array(list) => {
            let texts = list.iter().filter_map(|item| match item {
                Value::String(text) => Some(Text::from(text.as_str())),
                Value::Number(number) => Some(number.to_string().into()),
                _ => None,
            });
            Claim::List(texts.collect())
        }
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.filter_map(|(name, v)| Some((name.as_str().into(), claim(v)?)));
            Claim::Object(fields.collect())
        }
        Value::Null => return None,
    })
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
pub(crate) mod tests;
