//! `RequestAuthentication`: which tokens of requests are believed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::resource;
use crate::selector::{PolicyTargetReference, WorkloadSelector};

resource! {
    /// Which tokens of requests are believed.
    RequestAuthentication { spec: RequestAuthenticationSpec, group: super::GROUP, version: "v1", plural: "requestauthentications" }
}

/// Tokens that are checked, and what is done with them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.selector), has(self.targetRef), has(self.targetRefs)].filter(x, x).size() <= 1",
    "message": "at most one of selector, targetRef and targetRefs can be set"
}]))]
pub struct RequestAuthenticationSpec {
    /// Gateway pods that it applies to. Waypoints need targets instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The object that it applies to. `targetRefs` replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetReference>,
    /// Objects that it applies to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Issuers, each with its keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub jwt_rules: Vec<JwtRule>,
}

/// An issuer of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.jwksUri), has(self.jwks_uri), has(self.jwks)].filter(x, x).size() <= 1",
    "message": "at most one of jwks and jwksUri can be set"
}]))]
pub struct JwtRule {
    /// Who issues them (`iss`).
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1))]
    pub issuer: String,
    /// Whom they may be for (`aud`); anybody without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(min = 1)))]
    pub audiences: Vec<String>,
    /// Where the keys are.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [
        {"rule": "url(self).getScheme() in ['http', 'https']", "message": "the scheme must be http or https"}
    ]))]
    pub jwks_uri: String,
    /// The same, as older versions of the API spelt it.
    #[serde(rename = "jwks_uri", skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [
        {"rule": "url(self).getScheme() in ['http', 'https']", "message": "the scheme must be http or https"}
    ]))]
    pub old_jwks_uri: String,
    /// The keys themselves, as a JSON Web Key Set (RFC 7517).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwks: String,
    /// Headers that carry tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_headers: Vec<JwtHeader>,
    /// Parameters of the query that do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(min = 1)))]
    pub from_params: Vec<String>,
    /// Cookies that do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(min = 1)))]
    pub from_cookies: Vec<String>,
    /// Header for the claims of a good token, in base64url.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output_payload_to_header: String,
    /// The backend gets the token too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forward_original_token: bool,
    /// Headers for single claims.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Longest time for fetching the keys.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub timeout: String,
    /// Claims that are lists of words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1)))]
    pub space_delimited_claims: Vec<String>,
    /// Whether requests without a token pass: `OPTIONAL` (the default) or `REQUIRED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["OPTIONAL", "REQUIRED"]))]
    pub presence: Option<String>,
}

/// A header with a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct JwtHeader {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// What stands before the token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// A header for a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["header", "claim"]))]
pub struct ClaimToHeader {
    /// The header.
    #[schemars(length(min = 1), regex(pattern = r"^[-_A-Za-z0-9]+$"))]
    pub header: String,
    /// The claim; dots go into objects.
    #[schemars(length(min = 1))]
    pub claim: String,
}

impl JwtRule {
    /// Where the keys are, in either spelling.
    pub fn keys_uri(&self) -> &str {
        match self.jwks_uri.is_empty() {
            true => &self.old_jwks_uri,
            false => &self.jwks_uri,
        }
    }
}
