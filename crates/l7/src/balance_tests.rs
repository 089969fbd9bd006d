//! Traffic policies on the wire: which of several endpoints answers, and what limits do.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ambit_model::Workload;
use ambit_model::balance::locality::{LocalityKind, LocalityRule, Place, Share};
use ambit_model::route::{Action, Backend, Forward, Parent, Route, Rule, Session, Target};
use ambit_model::service::NamespacedHostname;
use ambit_model::state::Change;
use ambit_model::traffic::{
    Balance, HashOn, HashTable, Limits, Outlier, Settings, TrafficPolicy, Warmup,
};
use ambit_model::workload::Locality;
use ambit_wire::xds::{Handler, Received};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::sniff::Protocol;
use crate::state::{RouteHandler, TrafficHandler};
use crate::testbed::{Testbed, endpoint_of, service_key, service_of};

/// Endpoints: 127.0.1.1 and on.
const COUNT: usize = 4;

/// Where they are; the waypoint is in the first place.
const PLACES: [&str; COUNT] = ["eu/a", "eu/a", "eu/b", "us/a"];

fn place(text: &str) -> Locality {
    let (region, zone) = text.split_once('/').unwrap();
    Locality {
        region: region.into(),
        zone: zone.into(),
        subzone: "".into(),
    }
}

fn many() -> NamespacedHostname {
    NamespacedHostname::new("shop", "many.shop.svc.cluster.local")
}

/// A waypoint in front of several endpoints.
struct Many {
    testbed: Testbed,
    /// The endpoint of this number answers 500, or waits.
    fails: Arc<[AtomicBool; COUNT]>,
    waits: Arc<AtomicBool>,
    /// The last endpoint.
    last: Arc<Workload>,
}

impl Many {
    async fn new(settings: Settings, session: Option<Session>) -> Self {
        let mut testbed = Testbed::new().await;
        let fails = Arc::<[AtomicBool; COUNT]>::default();
        let waits = Arc::<AtomicBool>::default();
        let mut port = 0;
        let mut changes = Vec::new();
        let mut last = Arc::default();
        for (number, at) in PLACES.into_iter().enumerate() {
            let address = format!("127.0.1.{}", number + 1);
            let listener = TcpListener::bind((address.as_str(), port)).await.unwrap();
            port = listener.local_addr().unwrap().port();
            tokio::spawn(serve(listener, number, fails.clone(), waits.clone()));
            let mut workload = endpoint_of(&address, many());
            workload.addresses = vec![address.parse().unwrap()];
            workload.locality = place(at);
            last = Arc::new(workload);
            changes.push(Change::Workload(last.clone()));
        }
        changes.push(Change::Service(Arc::new(service_of(many(), port))));
        // The waypoint's own pod.
        changes.push(Change::Workload(Arc::new(Workload {
            uid: "own".into(),
            namespace: "shop".into(),
            locality: place("eu/a"),
            ..Workload::default()
        })));
        testbed.know(changes);
        let policy = TrafficPolicy {
            namespace: "shop".into(),
            name: "many".into(),
            service: many(),
            settings,
            ..TrafficPolicy::default()
        };
        let received = Received {
            name: policy.key(),
            aliases: Vec::new(),
            message: (&policy).into(),
        };
        TrafficHandler(testbed.l7()).handle(vec![received], vec![]);
        let route = route(session);
        let received = Received {
            name: route.key(),
            aliases: Vec::new(),
            message: (&route).into(),
        };
        RouteHandler(testbed.l7()).handle(vec![received], vec![]);
        Self {
            testbed,
            fails,
            waits,
            last,
        }
    }

    /// One request on a connection of its own: status, headers, and who has answered.
    async fn ask(&self, header: (&str, &str)) -> (u16, HeaderMap, String) {
        let io = TokioIo::new(self.testbed.connect(Protocol::Http1));
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/")
            .header("host", "many")
            .header(header.0, header.1)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (head.status.as_u16(), head.headers, body)
    }

    /// How many of so many requests each endpoint has answered.
    async fn shares(&self, count: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            *shares.entry(self.ask(("x", "y")).await.2).or_default() += 1;
        }
        shares
    }
}

fn route(session: Option<Session>) -> Route {
    let target = Target {
        service: many(),
        port: 80,
    };
    let forward = Forward {
        backends: vec![Backend {
            target: Some(target),
            weight: 1,
            ..Backend::default()
        }],
        session,
        ..Forward::default()
    };
    Route {
        namespace: "shop".into(),
        name: "many".into(),
        parents: vec![Parent {
            service: service_key(),
            port: None,
        }],
        rules: vec![Rule {
            action: Action::Forward(forward),
            ..Rule::default()
        }],
        ..Route::default()
    }
}

async fn serve(
    listener: TcpListener,
    number: usize,
    fails: Arc<[AtomicBool; COUNT]>,
    waits: Arc<AtomicBool>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (fails, waits) = (fails.clone(), waits.clone());
        let service = service_fn(move |_| {
            let (fails, waits) = (fails.clone(), waits.clone());
            async move {
                while waits.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let status = match fails[number].load(Ordering::Relaxed) {
                    true => 500,
                    false => 200,
                };
                let body = Full::new(Bytes::from(number.to_string()));
                let response = Response::builder().status(status).body(body);
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn balance(balance: Balance) -> Settings {
    Settings {
        balance,
        ..Settings::default()
    }
}

#[tokio::test]
async fn in_turn() {
    let many = Many::new(balance(Balance::RoundRobin), None).await;
    let shares = many.shares(40).await;
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [10; COUNT]);
}

#[tokio::test]
async fn a_new_endpoint_gets_less() {
    let warmup = Warmup {
        duration: Duration::from_secs(3_600),
        minimum: 0.1,
        aggression: 1.0,
    };
    let settings = Settings {
        warmup: Some(warmup),
        ..balance(Balance::RoundRobin)
    };
    let mut many = Many::new(settings, None).await;
    let shares = many.shares(40).await;
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [10; COUNT]);

    // The last one goes, and comes back as a new one.
    let last = many.last.clone();
    let gone = Change::RemoveAddress(last.uid.clone());
    many.testbed.know(vec![gone]);
    assert_eq!(many.shares(8).await.get("3"), None);
    many.testbed.know(vec![Change::Workload(last)]);
    let shares = many.shares(62).await;
    // A tenth of what another one gets: 2 of 62, and its weight may be more or less at an end.
    assert!((1..=4).contains(&shares["3"]), "{shares:?}");
}

fn local(kind: LocalityKind) -> Settings {
    Settings {
        locality: Some(LocalityRule {
            kind,
            of_mesh: false,
        }),
        outlier: Some(Outlier {
            consecutive_5xx: 1,
            consecutive_gateway: 0,
            base_ejection: Duration::from_secs(60),
            max_ejection_percent: 100,
            min_health_percent: 0,
        }),
        ..balance(Balance::RoundRobin)
    }
}

#[tokio::test]
async fn the_nearest_that_work() {
    let kind = LocalityKind::Failover(vec![("eu".into(), "us".into())]);
    let many = Many::new(local(kind), None).await;
    let names = |shares: BTreeMap<String, usize>| shares.into_keys().collect::<Vec<_>>();
    assert_eq!(names(many.shares(8).await), ["0", "1"]);
    for (failing, left) in [(&[0][..], "1"), (&[1], "2"), (&[2], "3")] {
        for number in failing {
            many.fails[*number].store(true, Ordering::Relaxed);
        }
        // Each fails once, and is left out then.
        many.shares(2).await;
        assert_eq!(names(many.shares(8).await), [left]);
    }
}

#[tokio::test]
async fn shares_by_place() {
    let kind = LocalityKind::Distribute(vec![Share {
        from: Place::parse("eu/a"),
        to: vec![(Place::parse("eu/a"), 75), (Place::parse("us"), 25)],
    }]);
    let many = Many::new(local(kind), None).await;
    let shares = many.shares(80).await;
    let of = |number: &str| shares.get(number).copied().unwrap_or_default();
    assert_eq!(of("2"), 0, "{shares:?}");
    assert!((10..=30).contains(&of("3")), "{shares:?}");
    assert!(of("0") > 20 && of("1") > 20, "{shares:?}");
}

#[tokio::test]
async fn all_get_some_of_what_is_drawn() {
    for drawn in [Balance::Random, Balance::LeastRequest] {
        let many = Many::new(balance(drawn), None).await;
        let shares = many.shares(200).await;
        assert!(
            shares.len() == COUNT && shares.values().all(|n| *n > 10),
            "{shares:?}"
        );
    }
}

#[tokio::test]
async fn the_same_header_goes_to_the_same_endpoint() {
    for table in [HashTable::Ring(1024), HashTable::Maglev(65_537)] {
        let on = HashOn::Header("x-user".into());
        let many = Many::new(balance(Balance::Hash(on, table)), None).await;
        let mut answered = BTreeMap::new();
        for round in 0..3 {
            for user in 0..20 {
                let user = format!("user {user}");
                let (_, _, who) = many.ask(("x-user", &user)).await;
                let before = answered.insert(user, who.clone());
                assert!(round == 0 || before == Some(who));
            }
        }
        let used: std::collections::BTreeSet<_> = answered.into_values().collect();
        assert!(used.len() > 1);
    }
}

#[tokio::test]
async fn a_cookie_is_given_and_followed() {
    let on = HashOn::Cookie {
        name: "place".into(),
        path: "/".into(),
        lifetime: Some(Duration::from_secs(60)),
    };
    let settings = balance(Balance::Hash(on, HashTable::Ring(1024)));
    let many = Many::new(settings, None).await;
    follows(&many, "place").await;
}

#[tokio::test]
async fn a_session_stays() {
    let session = Session {
        name: "place".into(),
        header: false,
        lifetime: None,
    };
    let many = Many::new(Settings::default(), Some(session)).await;
    follows(&many, "place").await;
    // What names no endpoint of the service is as nothing.
    let (status, headers, _) = many.ask(("cookie", "place=MTAuMC4wLjE6ODA")).await;
    assert!(status == 200 && headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn a_session_stays_with_its_backend_of_a_split() {
    let session = Session {
        name: "place".into(),
        header: false,
        lifetime: None,
    };
    let many = Many::new(Settings::default(), Some(session.clone())).await;
    let mut route = route(Some(session));
    if let Action::Forward(forward) = &mut route.rules[0].action {
        forward.backends.push(Backend {
            target: Some(Target {
                service: service_key(),
                port: 80,
            }),
            weight: 1,
            ..Backend::default()
        });
    }
    let received = Received {
        name: route.key(),
        aliases: Vec::new(),
        message: (&route).into(),
    };
    RouteHandler(many.testbed.l7()).handle(vec![received], vec![]);
    for _ in 0..6 {
        follows(&many, "place").await;
    }
}

/// The first answer gives a cookie; who sends it back gets the same endpoint and no new one.
async fn follows(many: &Many, name: &str) {
    let (_, headers, who) = many.ask(("x", "y")).await;
    let cookie = headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with(&format!("{name}=\"")), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    for _ in 0..20 {
        let (_, headers, again) = many.ask(("cookie", &cookie)).await;
        assert_eq!(again, who);
        assert!(!headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    let settings = Settings {
        balance: Balance::RoundRobin,
        outlier: Some(Outlier {
            consecutive_5xx: 2,
            consecutive_gateway: 0,
            base_ejection: Duration::from_millis(300),
            max_ejection_percent: 50,
            min_health_percent: 0,
        }),
        ..Settings::default()
    };
    let many = Many::new(settings, None).await;
    many.fails[1].store(true, Ordering::Relaxed);
    // It may come back between two looks, fail again, and be left out for longer.
    let left_out = async { while many.shares(2 * COUNT).await.contains_key("1") {} };
    let left_out = tokio::time::timeout(Duration::from_secs(20), left_out).await;
    assert!(left_out.is_ok(), "it is left out");
    many.fails[1].store(false, Ordering::Relaxed);
    let back = async {
        while !many.shares(COUNT).await.contains_key("1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let back = tokio::time::timeout(Duration::from_secs(20), back).await;
    assert!(back.is_ok(), "it comes back");
}

#[tokio::test]
async fn too_few_healthy_ones_are_as_all() {
    let settings = Settings {
        balance: Balance::RoundRobin,
        outlier: Some(Outlier {
            consecutive_5xx: 1,
            consecutive_gateway: 0,
            base_ejection: Duration::from_secs(3600),
            max_ejection_percent: 100,
            min_health_percent: 50,
        }),
        ..Settings::default()
    };
    let many = Many::new(settings, None).await;
    for fails in &many.fails[..COUNT - 1] {
        fails.store(true, Ordering::Relaxed);
    }
    many.shares(COUNT * 4).await;
    assert_eq!(many.shares(COUNT * 2).await.len(), COUNT);
}

#[tokio::test]
async fn limits_of_what_is_under_way() {
    let limited = |limits| Settings {
        limits,
        ..Settings::default()
    };
    for limits in [
        Limits {
            requests: Some(2),
            ..Limits::default()
        },
        Limits {
            connections: Some(1),
            pending: Some(1),
            ..Limits::default()
        },
    ] {
        let many = Arc::new(Many::new(limited(limits), None).await);
        many.waits.store(true, Ordering::Relaxed);
        let mut asked = JoinSet::new();
        for _ in 0..8 {
            let many = many.clone();
            asked.spawn(async move { many.ask(("x", "y")).await.0 });
        }
        let mut statuses = Vec::new();
        while statuses.len() < 6 {
            let next = tokio::time::timeout(Duration::from_secs(20), asked.join_next());
            statuses.push(next.await.expect("refused at once").unwrap().unwrap());
        }
        assert_eq!(statuses, [503; 6]);
        many.waits.store(false, Ordering::Relaxed);
        assert_eq!(asked.join_all().await, [200; 2]);
    }
}
