//! Which tokens of requests are believed (`RequestAuthentication`): the form in which that reaches a
//! proxy. Tokens are checked where the keys are at hand, in the proxy.

use crate::Text;
use crate::access::Attachment;

/// What one object says about tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// Namespace of the object.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// What it is attached to.
    pub attachments: Vec<Attachment>,
    /// Issuers.
    pub rules: Vec<TokenRule>,
}

/// An issuer of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRule {
    /// `iss`.
    pub issuer: Text,
    /// `aud`: one of these, or anybody.
    pub audiences: Vec<Text>,
    /// A JSON Web Key Set (RFC 7517). Without keys, every token of the issuer is refused.
    pub keys: Text,
    /// Where tokens are looked for.
    pub places: Vec<Place>,
    /// The backend gets the token too.
    pub forward: bool,
    /// Header for the claims, in base64url.
    pub payload_header: Option<Text>,
    /// Headers for single claims: the header in lower case, and the way to the claim.
    pub claim_headers: Vec<(Text, Vec<Text>)>,
    /// Claims that are lists of words.
    pub word_claims: Vec<Text>,
    /// A request without a token is refused.
    pub required: bool,
}

/// Where a token is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A header in lower case, and what stands before the token.
    Header(Text, Text),
    /// A parameter of the query.
    Parameter(Text),
    /// A cookie.
    Cookie(Text),
}

impl Authentication {
    /// The key of the object, `namespace/name`.
    pub fn key(&self) -> Text {
        format!("{}/{}", self.namespace, self.name).into()
    }
}

/// Where tokens are where nobody says so: `Authorization: Bearer`, and `access_token` of the query
/// (RFC 6750).
pub fn usual_places() -> Vec<Place> {
    vec![
        Place::Header("authorization".into(), "Bearer ".into()),
        Place::Parameter("access_token".into()),
    ]
}
