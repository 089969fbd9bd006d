use super::*;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

/// An issuer with a key of its own.
pub(crate) struct Issuer {
    key: KeyPair,
    id: &'static str,
}

impl Issuer {
    pub(crate) fn new(id: &'static str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self { key, id }
    }

    /// Its public key as a JSON Web Key.
    pub(crate) fn jwk(&self) -> Value {
        use base64::Engine as _;
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key_raw();
        let part = |range: std::ops::Range<usize>| {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&point[range])
        };
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id, "x": part(1..33), "y": part(33..65)})
    }

    pub(crate) fn sign(&self, claims: Value) -> String {
        let key = EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes()).unwrap();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        encode(&header, &claims, &key).unwrap()
    }
}

fn issuers(issuer: &Issuer, change: impl FnOnce(&mut TokenRule)) -> Issuers {
    let mut rule = TokenRule {
        issuer: "me".into(),
        keys: json!({"keys": [issuer.jwk()]}).to_string().into(),
        places: ambit_model::token::usual_places(),
        ..TokenRule::default()
    };
    change(&mut rule);
    Issuers::new(Authentication {
        rules: vec![rule],
        ..Authentication::default()
    })
}

struct Request(Option<String>);

impl Places for Request {
    fn header(&self, name: &str) -> Option<String> {
        let token = self.0.as_ref().filter(|_| name == "authorization")?;
        Some(format!("Bearer {token}"))
    }
    fn parameter(&self, _: &str) -> Option<String> {
        None
    }
    fn cookie(&self, _: &str) -> Option<String> {
        None
    }
}

fn checked(issuers: &Issuers, token: Option<String>) -> Result<Vec<String>, Refusal> {
    let believed = check(std::iter::once(issuers), &Request(token))?;
    Ok(believed
        .iter()
        .map(|b| b.token.principal.to_string())
        .collect())
}

fn later() -> u64 {
    jsonwebtoken::get_current_timestamp() + 1000
}

#[test]
fn a_good_token_is_believed_and_none_passes() {
    let issuer = Issuer::new("k");
    let issuers = issuers(&issuer, |_| {});
    let token = issuer
        .sign(json!({"iss": "me", "sub": "you", "exp": later(), "groups": ["a"], "scope": "x y"}));
    assert_eq!(checked(&issuers, Some(token.clone())).unwrap(), ["me/you"]);
    assert_eq!(checked(&issuers, None).unwrap(), Vec::<String>::new());
    let request = Request(Some(token));
    let believed = check(std::iter::once(&issuers), &request).unwrap();
    assert_eq!(believed[0].token.claim(&["groups".into()]), ["a"]);
    assert_eq!(believed[0].token.claim(&["scope".into()]), ["x", "y"]);
}

#[test]
fn what_is_wrong_is_refused() {
    let (issuer, other) = (Issuer::new("k"), Issuer::new("k"));
    let issuers_ = issuers(&issuer, |_| {});
    let refused = |token: String| checked(&issuers_, Some(token)).unwrap_err();
    assert_eq!(refused("a.b".into()), Refusal::Malformed);
    assert_eq!(
        refused(issuer.sign(json!({"iss": "x", "exp": later()}))),
        Refusal::Issuer
    );
    assert_eq!(
        refused(other.sign(json!({"iss": "me", "exp": later()}))),
        Refusal::Signature
    );
    assert_eq!(
        refused(issuer.sign(json!({"iss": "me", "exp": 1}))),
        Refusal::Expired
    );
    assert_eq!(
        refused(issuer.sign(json!({"iss": "me", "exp": later(), "nbf": later()}))),
        Refusal::Expired
    );
    // The signature of another token.
    let (a, b) = (
        issuer.sign(json!({"iss": "me", "exp": later(), "sub": "a"})),
        issuer.sign(json!({"iss": "me", "exp": later(), "sub": "b"})),
    );
    let mixed = format!(
        "{}.{}",
        a.rsplit_once('.').unwrap().0,
        b.rsplit_once('.').unwrap().1
    );
    assert_eq!(refused(mixed), Refusal::Signature);
    // A secret that everybody knows: the public key itself.
    let secret = EncodingKey::from_secret(issuer.key.public_key_raw());
    let shared = encode(
        &Header::new(Algorithm::HS256),
        &json!({"iss": "me", "exp": later()}),
        &secret,
    );
    assert_eq!(refused(shared.unwrap()), Refusal::Signature);
    // Nobody signs.
    let none = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJtZSJ9.";
    assert_eq!(refused(none.into()), Refusal::Malformed);
}

#[test]
fn audiences_presence_and_keys() {
    let issuer = Issuer::new("k");
    let audience = issuers(&issuer, |rule| rule.audiences = vec!["shop".into()]);
    let token =
        |aud: Value| issuer.sign(json!({"iss": "me", "sub": "s", "exp": later(), "aud": aud}));
    assert!(checked(&audience, Some(token(json!("shop")))).is_ok());
    assert!(checked(&audience, Some(token(json!(["x", "shop"])))).is_ok());
    assert_eq!(
        checked(&audience, Some(token(json!("x")))).unwrap_err(),
        Refusal::Audience
    );
    let without = issuer.sign(json!({"iss": "me", "exp": later()}));
    assert_eq!(
        checked(&audience, Some(without.clone())).unwrap_err(),
        Refusal::Audience
    );
    let required = issuers(&issuer, |rule| rule.required = true);
    assert_eq!(checked(&required, None).unwrap_err(), Refusal::Missing);
    assert!(checked(&required, Some(without.clone())).is_ok());
    let keyless = issuers(&issuer, |rule| rule.keys = "".into());
    assert_eq!(
        checked(&keyless, Some(without)).unwrap_err(),
        Refusal::Signature
    );
}

#[test]
fn a_token_that_is_remembered_gets_older() {
    let issuer = Issuer::new("k");
    let issuers = issuers(&issuer, |_| {});
    let token = issuer.sign(json!({"iss": "me", "sub": "you", "exp": later()}));
    assert!(checked(&issuers, Some(token.clone())).is_ok());
    let remembered = issuers.rules[0].known(&token).unwrap();
    assert!(checked(&issuers, Some(token.clone())).is_ok());
    // Its time is over.
    let over = Checked {
        until: jsonwebtoken::get_current_timestamp() as f64 - SKEW as f64 - 1.0,
        ..remembered.clone()
    };
    issuers.rules[0].checked.lock().insert(token.clone(), over);
    let refused = checked(&issuers, Some(token.clone())).unwrap_err();
    assert_eq!(refused, Refusal::Expired);
    // Nor is one good before its time.
    let early = Checked {
        since: later() as f64,
        ..remembered
    };
    issuers.rules[0].checked.lock().insert(token.clone(), early);
    let refused = checked(&issuers, Some(token.clone())).unwrap_err();
    assert_eq!(refused, Refusal::Expired);
    // One that is not good is not remembered, nor is one believed for a part of it.
    let other = Issuer::new("k").sign(json!({"iss": "me", "exp": later()}));
    assert!(checked(&issuers, Some(other.clone())).is_err());
    assert!(issuers.rules[0].known(&other).is_none());
    assert!(checked(&issuers, Some(token[..token.len() - 1].to_owned())).is_err());
}

#[test]
fn what_is_remembered_is_bounded() {
    let issuer = Issuer::new("k");
    let issuers = issuers(&issuer, |_| {});
    for n in 0..REMEMBERED + 10 {
        let token = issuer.sign(json!({"iss": "me", "jti": n, "exp": later()}));
        assert!(checked(&issuers, Some(token)).is_ok());
    }
    assert!(issuers.rules[0].checked.lock().len() <= REMEMBERED);
    let long = issuer.sign(json!({"iss": "me", "x": "x".repeat(LONGEST), "exp": later()}));
    assert!(checked(&issuers, Some(long.clone())).is_ok());
    assert!(issuers.rules[0].known(&long).is_none());
}
