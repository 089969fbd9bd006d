//! What policies look at.

use std::net::{IpAddr, SocketAddr};

use crate::{Identity, Text};

/// A request, or a connection, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who the peer is, as TLS has shown.
    pub identity: Option<&'a Identity>,
    /// Its address.
    pub source: IpAddr,
    /// The client's address as the first trusted proxy in front of us says; the peer's without one.
    pub remote: IpAddr,
    /// Where the client wanted to go: the service's address and port.
    pub destination: SocketAddr,
    /// Server name of TLS, where there is one.
    pub sni: Option<&'a str>,
    /// What only a request has; none for a connection that is not HTTP.
    pub http: Option<Head<'a>>,
}

/// What only a request has.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Method.
    pub method: &'a str,
    /// Host, with the port if the client named one.
    pub authority: &'a str,
    /// Path without the query, normalized.
    pub path: &'a str,
    /// Names in lower case, and values.
    pub headers: &'a [(&'a str, &'a str)],
    /// The token that was checked, if there was one.
    pub token: Option<&'a Token>,
}

/// What a token says that was checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    /// `iss/sub`; empty if one of them is missing.
    pub principal: Text,
    /// `aud`.
    pub audiences: Vec<Text>,
    /// `azp`.
    pub presenter: Text,
    /// All claims.
    pub claims: Vec<(Text, Claim)>,
}

/// A claim as far as policies can look into it.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// A text.
    Text(Text),
    /// A list of texts.
    List(Vec<Text>),
    /// Claims by name.
    Object(Vec<(Text, Claim)>),
}

impl Token {
    /// The texts of a claim by its path; none for a claim that is absent.
    pub fn claim(&self, path: &[Text]) -> Vec<&str> {
        let mut claims = &self.claims;
        for (depth, name) in path.iter().enumerate() {
            let Some((_, claim)) = claims.iter().find(|(n, _)| n == name) else {
                return Vec::new();
            };
            let last = depth + 1 == path.len();
            match claim {
                Claim::Object(inner) => claims = inner,
                Claim::Text(text) if last => return vec![text],
                Claim::List(list) if last => return list.iter().map(|t| &**t).collect(),
                Claim::Text(_) | Claim::List(_) => return Vec::new(),
            }
        }
        Vec::new()
    }
}
