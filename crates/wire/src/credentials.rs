//! What a client says about itself in the metadata of a call: its token and its cluster.
//!
//! The token is read again for every call, because Kubernetes rotates projected tokens. It never
//! shows in a log or an error.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};

/// Where the bearer token comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// No token is sent.
    None,
    /// A file, normally a projected service account token.
    File(PathBuf),
    /// The token itself, for tests and tools.
    Literal(String),
}

/// The metadata of every call on a control channel.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The token.
    pub token: Token,
    /// Sent as `clusterid`, together with a token only.
    pub cluster_id: String,
    /// More headers.
    pub headers: BTreeMap<String, String>,
}

/// A call cannot be made for want of usable credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The token file cannot be read.
    #[error("the token file {path} cannot be read: {source}; is the token volume mounted?")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing in the token file.
    #[error("the token file {0} is empty")]
    Empty(PathBuf),
    /// Characters that cannot be sent.
    #[error("{0} contains characters that a header cannot carry")]
    Unsendable(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::None => f.write_str("None"),
            Token::File(path) => write!(f, "File({})", path.display()),
            Token::Literal(_) => f.write_str("Literal(***)"),
        }
    }
}

impl Token {
    /// The meaning of `AUTH_TOKEN`: a path where a file exists or that is written as one, else the
    /// token itself.
    pub fn parse(text: &str) -> Self {
        let path = Path::new(text);
        if text.starts_with('/') || text.starts_with("./") || path.exists() {
            Token::File(path.to_owned())
        } else {
            Token::Literal(text.to_owned())
        }
    }

    async fn read(&self) -> Result<Option<String>, CredentialsError> {
        match self {
            Token::None => Ok(None),
            Token::Literal(token) => Ok(Some(token.clone())),
            Token::File(path) => {
                let read = tokio::fs::read_to_string(path).await;
                let text = read.map_err(|source| CredentialsError::Read {
                    path: path.clone(),
                    source,
                })?;
                let token = text.trim();
                if token.is_empty() {
                    return Err(CredentialsError::Empty(path.clone()));
                }
                Ok(Some(token.to_owned()))
            }
        }
    }
}

impl Credentials {
    /// Credentials of a client that sends none.
    pub fn none() -> Self {
        Self {
            token: Token::None,
            cluster_id: String::new(),
            headers: BTreeMap::new(),
        }
    }

    /// Adds the metadata of one call.
    pub async fn add_to(&self, metadata: &mut MetadataMap) -> Result<(), CredentialsError> {
        if let Some(token) = self.token.read().await? {
            let unsendable = || CredentialsError::Unsendable("the token".to_owned());
            let value = format!("Bearer {token}");
            let mut value: MetadataValue<_> = value.parse().map_err(|_| unsendable())?;
            value.set_sensitive(true);
            metadata.insert("authorization", value);
            let unsendable = || CredentialsError::Unsendable("the cluster id".to_owned());
            let value = self.cluster_id.parse().map_err(|_| unsendable())?;
            metadata.insert("clusterid", value);
        }
        for (name, value) in &self.headers {
            let unsendable = || CredentialsError::Unsendable(format!("the header {name:?}"));
            let key: MetadataKey<_> = name
                .to_ascii_lowercase()
                .parse()
                .map_err(|_| unsendable())?;
            metadata.insert(key, value.parse().map_err(|_| unsendable())?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(token: Token) -> Credentials {
        let headers = BTreeMap::from([("X-Tenant".to_owned(), "a".to_owned())]);
        Credentials {
            token,
            cluster_id: "Kubernetes".to_owned(),
            headers,
        }
    }

    #[tokio::test]
    async fn the_token_is_read_for_each_call() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let credentials = credentials(Token::parse(path.to_str().unwrap()));
        let call = async || {
            let mut metadata = MetadataMap::new();
            credentials.add_to(&mut metadata).await.map(|()| metadata)
        };
        let error = call().await.unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
        std::fs::write(&path, "one\n").unwrap();
        let metadata = call().await.unwrap();
        assert_eq!(metadata.get("authorization").unwrap(), "Bearer one");
        assert_eq!(metadata.get("clusterid").unwrap(), "Kubernetes");
        assert_eq!(metadata.get("x-tenant").unwrap(), "a");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(
            call().await.unwrap().get("authorization").unwrap(),
            "Bearer two"
        );
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(call().await, Err(CredentialsError::Empty(_))));
    }

    #[tokio::test]
    async fn without_a_token_there_is_no_cluster_either() {
        let mut metadata = MetadataMap::new();
        credentials(Token::None)
            .add_to(&mut metadata)
            .await
            .unwrap();
        assert!(metadata.get("authorization").is_none() && metadata.get("clusterid").is_none());
    }

    #[test]
    fn a_token_never_shows() {
        assert_eq!(format!("{:?}", Token::parse("s3cret")), "Literal(***)");
    }
}
