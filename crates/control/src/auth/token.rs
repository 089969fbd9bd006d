//! Reviewing tokens, with a short and bounded memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::Caller;

/// How long a good review holds. A deleted pod's token works for this long at most.
const MEMORY: Duration = Duration::from_secs(30);
/// Reviews that are remembered.
const REMEMBERED: usize = 4096;
/// Reviews at a time, so that callers without a valid token cannot flood the API server.
const CONCURRENT: usize = 16;

type TokenHash = [u8; 32];

/// Finds out whom a bearer token names.
pub struct Reviewer {
    client: Client,
    audiences: Vec<String>,
    permits: Semaphore,
    known: Mutex<HashMap<TokenHash, (Instant, Arc<Caller>)>>,
}

impl Reviewer {
    /// A reviewer of tokens for one of the audiences.
    pub fn new(client: Client, audiences: Vec<String>) -> Self {
        Self {
            client,
            audiences,
            permits: Semaphore::new(CONCURRENT),
            known: Mutex::default(),
        }
    }

    /// The caller that the metadata of a call name, or the status to refuse with.
    pub async fn authenticate(&self, metadata: &MetadataMap) -> Result<Arc<Caller>, Status> {
        let token = bearer(metadata)?;
        let hash = hash(token);
        if let Some(caller) = self.remembered(&hash, Instant::now()) {
            return Ok(caller);
        }
        let caller = Arc::new(self.review(token).await?);
        self.remember(hash, caller.clone(), Instant::now());
        Ok(caller)
    }

    async fn review(&self, token: &str) -> Result<Caller, Status> {
        let _permit = self.permits.acquire().await;
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                audiences: Some(self.audiences.clone()),
                token: Some(token.to_owned()),
            },
            status: None,
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| {
                tracing::warn!("a token could not be reviewed: {error}");
                Status::unavailable("the API server cannot review tokens now; try again")
            })?;
        let status = answer.status.unwrap_or_default();
        let caller =
            Caller::from_review(&status).map_err(|error| unauthenticated(&error.to_string()))?;
        // A server that says nothing about audiences has not compared them.
        if !status
            .audiences
            .iter()
            .flatten()
            .any(|a| self.audiences.contains(a))
        {
            return Err(unauthenticated("the token is for another audience"));
        }
        Ok(caller)
    }

    fn remembered(&self, hash: &TokenHash, now: Instant) -> Option<Arc<Caller>> {
        let known = self.known.lock();
        let (since, caller) = known.get(hash)?;
        (now.duration_since(*since) < MEMORY).then(|| caller.clone())
    }

    fn remember(&self, hash: TokenHash, caller: Arc<Caller>, now: Instant) {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, (since, _)| now.duration_since(*since) < MEMORY);
        }
        if known.len() < REMEMBERED {
            known.insert(hash, (now, caller));
        }
    }
}

fn hash(token: &str) -> TokenHash {
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Status> {
    let missing = || {
        unauthenticated(
            "there is no bearer token; send the token of a service account with the audience istio-ca",
        )
    };
    let value = metadata.get("authorization").ok_or_else(missing)?;
    let value = value.to_str().map_err(|_| missing())?;
    let token = value.strip_prefix("Bearer ").unwrap_or_default().trim();
    if token.is_empty() {
        Err(missing())
    } else {
        Ok(token)
    }
}

fn unauthenticated(reason: &str) -> Status {
    Status::unauthenticated(format!("request authenticate failure: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", value.parse().unwrap());
        metadata
    }

    #[test]
    fn bearer_tokens() {
        assert_eq!(bearer(&metadata("Bearer abc")).unwrap(), "abc");
        for bad in ["", "Bearer", "Bearer ", "Basic abc"] {
            assert_eq!(
                bearer(&metadata(bad)).unwrap_err().code(),
                tonic::Code::Unauthenticated
            );
        }
        assert!(
            bearer(&MetadataMap::new())
                .unwrap_err()
                .message()
                .contains("istio-ca")
        );
    }

    #[tokio::test]
    async fn the_memory_is_short_and_bounded() {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let reviewer = Reviewer::new(Client::try_from(config).unwrap(), vec![]);
        let caller = Arc::new(Caller {
            namespace: "a".into(),
            service_account: "b".into(),
            pod: None,
        });
        let start = Instant::now();
        for i in 0..REMEMBERED + 10 {
            reviewer.remember(hash(&i.to_string()), caller.clone(), start);
        }
        assert_eq!(reviewer.known.lock().len(), REMEMBERED);
        assert!(reviewer.remembered(&hash("0"), start).is_some());
        let later = start + MEMORY;
        assert!(reviewer.remembered(&hash("0"), later).is_none());
        reviewer.remember(hash("new"), caller, later);
        assert_eq!(reviewer.known.lock().len(), 1);
    }
}
