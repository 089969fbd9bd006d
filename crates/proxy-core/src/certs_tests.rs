use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use ambit_transport::tls::TlsOptions;
use ambit_wire::ca::Authority;
use serde_json::Value;
use tokio::sync::Semaphore;

const LIMIT: Duration = Duration::from_secs(20);

/// A built-in authority that can be held up and made to fail.
struct TestSource {
    fake: FakeCa,
    /// One permit per fetch that may go on.
    gate: Semaphore,
    failing: Mutex<Option<&'static str>>,
    running: AtomicUsize,
    most: AtomicUsize,
    started: Mutex<Vec<String>>,
}

impl TestSource {
    fn new(lifetime: Duration) -> Arc<Self> {
        let authority = Authority::self_signed("td", Duration::from_secs(86_400)).unwrap();
        let tls = TlsOptions::default();
        Arc::new(Self {
            fake: FakeCa::new(Arc::new(authority), lifetime, tls),
            gate: Semaphore::new(0),
            failing: Mutex::new(None),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            started: Mutex::default(),
        })
    }

    fn open() -> Arc<Self> {
        let source = Self::new(Duration::from_secs(3600));
        source.gate.add_permits(1000);
        source
    }

    fn fetches(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for name in self.started.lock().iter() {
            *counts.entry(name.clone()).or_default() += 1;
        }
        counts
    }
}

impl Source for TestSource {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> source::Fetching<'a> {
        Box::pin(async move {
            self.started
                .lock()
                .push(identity.service_account.to_string());
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            self.running.fetch_sub(1, Ordering::SeqCst);
            if let Some(reason) = *self.failing.lock() {
                return Err(ambit_wire::ca::FetchError::Refused(reason.to_owned()).into());
            }
            self.fake.fetch(identity).await
        })
    }
}

fn id(name: &str) -> Identity {
    Identity::new("td", "ns", name)
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn many_who_ask_share_one_fetch() {
    let source = TestSource::new(Duration::from_secs(3600));
    let manager = CertificateManager::start(source.clone());
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.certificate(&id("a")).await })
        })
        .collect();
    eventually("a fetch", || source.fetches().len() == 1).await;
    assert!(manager.available(&id("a")).is_none());
    source.gate.add_permits(1);
    let mut serials = Vec::new();
    for task in asking {
        let certificate = task.await.unwrap().unwrap();
        assert_eq!(certificate.identity(), Some(&id("a")));
        serials.push(certificate.serial().to_owned());
    }
    serials.dedup();
    assert_eq!(serials.len(), 1);
    assert_eq!(source.fetches()["a"], 1);
    assert_eq!(manager.available(&id("a")).unwrap().serial(), serials[0]);
}

#[tokio::test]
async fn who_waits_overtakes_who_does_not() {
    let source = TestSource::new(Duration::from_secs(3600));
    let manager = CertificateManager::start(source.clone());
    for i in 0..30 {
        manager.prefetch(&id(&format!("warm{i:02}")));
    }
    eventually("eight fetches", || source.started.lock().len() == 8).await;
    let waiting = tokio::spawn({
        let manager = manager.clone();
        async move { manager.certificate(&id("urgent")).await }
    });
    let hurried = tokio::spawn({
        let manager = manager.clone();
        async move { manager.certificate(&id("warm29")).await }
    });
    // All tasks of the test share one thread, in turn: after a few turns the worker has both.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(manager.shared.slots.load().contains_key(&id("urgent")));
    source.gate.add_permits(1000);
    waiting.await.unwrap().unwrap();
    hurried.await.unwrap().unwrap();
    eventually("all", || source.started.lock().len() == 31).await;
    let mut next = source.started.lock()[8..10].to_vec();
    next.sort();
    assert_eq!(next, ["urgent", "warm29"]);
    assert_eq!(source.most.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn a_failure_is_told_at_once_and_tried_again() {
    let source = TestSource::open();
    *source.failing.lock() = Some("no such pod on the node");
    let manager = CertificateManager::start(source.clone());
    let error = manager.certificate(&id("a")).await.unwrap_err();
    assert!(
        error.to_string().contains("no such pod on the node"),
        "{error}"
    );
    assert!(manager.certificate(&id("a")).await.is_err());
    assert_eq!(
        source.fetches()["a"],
        1,
        "asking again does not fetch again"
    );
    let dump = manager.dump();
    let state = dump[0]["state"].as_str().unwrap();
    assert!(state.starts_with("Unavailable: "), "{state}");
    *source.failing.lock() = None;
    eventually("a certificate", || manager.available(&id("a")).is_some()).await;
}

#[tokio::test]
async fn a_certificate_is_kept_while_it_is_valid_and_no_longer() {
    // Backdated by two minutes, so that half of its life is over at once.
    let source = TestSource::new(Duration::from_secs(4));
    source.gate.add_permits(1000);
    let manager = CertificateManager::start(source.clone());
    let first = manager.certificate(&id("a")).await.unwrap();
    *source.failing.lock() = Some("down");
    eventually("a failed renewal", || source.fetches()["a"] >= 2).await;
    assert_eq!(
        manager.certificate(&id("a")).await.unwrap().serial(),
        first.serial()
    );
    eventually("its end", || manager.available(&id("a")).is_none()).await;
    assert!(manager.certificate(&id("a")).await.is_err());
    *source.failing.lock() = None;
    eventually("a new one", || manager.available(&id("a")).is_some()).await;
    assert_ne!(
        manager.certificate(&id("a")).await.unwrap().serial(),
        first.serial()
    );
}

#[tokio::test]
async fn a_forgotten_identity_starts_anew() {
    let source = TestSource::open();
    let manager = CertificateManager::start(source.clone());
    let first = manager.certificate(&id("a")).await.unwrap();
    manager.forget(&id("a"));
    assert!(manager.available(&id("a")).is_none());
    assert_eq!(manager.dump(), Value::Array(Vec::new()));
    let second = manager.certificate(&id("a")).await.unwrap();
    assert_ne!(first.serial(), second.serial());
    manager.forget(&id("never known"));
}

#[tokio::test]
async fn who_waits_for_a_forgotten_identity_is_told() {
    let source = TestSource::new(Duration::from_secs(3600));
    let manager = CertificateManager::start(source.clone());
    let waiting = tokio::spawn({
        let manager = manager.clone();
        async move { manager.certificate(&id("a")).await }
    });
    eventually("a fetch", || source.started.lock().len() == 1).await;
    manager.forget(&id("a"));
    source.gate.add_permits(1);
    let result = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert_eq!(result.unwrap_err(), Unavailable::Forgotten(id("a")));
}

#[tokio::test]
async fn the_dump_shows_certificates_and_no_keys() {
    let manager = CertificateManager::start(TestSource::open());
    let certificate = manager.certificate(&id("b")).await.unwrap();
    manager.certificate(&id("a")).await.unwrap();
    let dump = manager.dump();
    assert_eq!(dump[0]["identity"], "spiffe://td/ns/ns/sa/a");
    assert_eq!(dump[1]["identity"], "spiffe://td/ns/ns/sa/b");
    assert_eq!(dump[1]["state"], "Available");
    let leaf = &dump[1]["certChain"][0];
    assert_eq!(leaf["serialNumber"], certificate.serial());
    assert_eq!(leaf["validFrom"], dump::shown(certificate.not_before()));
    assert_eq!(leaf["expirationTime"], dump::shown(certificate.not_after()));
    let pem = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        leaf["pem"].as_str().unwrap(),
    );
    let pem = String::from_utf8(pem.unwrap()).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"), "{pem}");
    assert_eq!(dump[1]["rootCerts"].as_array().unwrap().len(), 1);
    assert!(!dump.to_string().contains("PRIVATE"));
}

/// A source that fails in a way nobody foresaw, once.
struct Panicking(Arc<TestSource>, AtomicUsize);

impl Source for Panicking {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> source::Fetching<'a> {
        assert!(
            self.1.fetch_add(1, Ordering::SeqCst) > 0,
            "the first fetch panics"
        );
        self.0.fetch(identity)
    }
}

#[tokio::test]
async fn a_fetch_that_panics_is_a_failed_one() {
    let manager = CertificateManager::start(Panicking(TestSource::open(), AtomicUsize::new(0)));
    let error = manager.certificate(&id("a")).await.unwrap_err().to_string();
    assert!(error.contains("the fetch broke off"), "{error}");
    eventually("another attempt", || manager.available(&id("a")).is_some()).await;
}
