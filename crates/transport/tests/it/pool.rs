//! Which streams share a tunnel, and which never do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_testkit::eventually;
use ambit_transport::hbone::pool::{Pool, PoolSettings};
use ambit_transport::hbone::{ConnectError, ConnectRequest, Http2Settings, client};
use tokio::sync::Notify;

use crate::support::{Mesh, SOON, echo, serve, soon};

/// A server that echoes, a pool, and a count of dials.
struct Scene {
    mesh: Arc<Mesh>,
    pool: Pool<&'static str>,
    dials: Arc<AtomicUsize>,
}

impl Scene {
    async fn new(settings: PoolSettings) -> Self {
        let mesh = Arc::new(Mesh::new().await);
        let server = mesh.clone();
        tokio::spawn(async move {
            loop {
                serve(server.accept(&Http2Settings::server()).await, echo);
            }
        });
        Self {
            mesh,
            pool: Pool::new(settings),
            dials: Arc::default(),
        }
    }

    async fn open(&self, key: &'static str) -> Result<client::Opened, ConnectError> {
        let (mesh, dials) = (self.mesh.clone(), self.dials.clone());
        let dial = move || {
            dials.fetch_add(1, Ordering::SeqCst);
            client::dial(mesh.dial())
        };
        soon(
            self.pool
                .open(&key, dial, &ConnectRequest::new("10.0.0.1:80")),
        )
        .await
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn all_who_come_at_once_share_one_dial() {
    let scene = Scene::new(PoolSettings::default()).await;
    let opened = futures_util::future::join_all((0..50).map(|_| scene.open("a"))).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!((scene.dials(), scene.pool.tunnels()), (1, 1));
}

#[tokio::test]
async fn keys_never_share() {
    let scene = Scene::new(PoolSettings::default()).await;
    let (a, b) = (scene.open("a").await, scene.open("b").await);
    assert_eq!((scene.dials(), scene.pool.tunnels()), (2, 2));
    drop((a, b));
    let _ = scene.open("a").await.unwrap();
    assert_eq!(scene.dials(), 2);
}

#[tokio::test]
async fn a_full_tunnel_is_joined_by_another_and_used_again_when_it_has_room() {
    let scene = Scene::new(PoolSettings {
        max_streams: 2,
        ..Default::default()
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(scene.open("a").await.unwrap());
    }
    assert_eq!((scene.dials(), scene.pool.tunnels()), (3, 3));
    open.clear();
    for _ in 0..6 {
        open.push(scene.open("a").await.unwrap());
    }
    assert_eq!(scene.dials(), 3);
}

#[tokio::test]
async fn one_failure_answers_all_who_waited_and_is_not_kept() {
    let pool = Pool::<&str>::new(PoolSettings::default());
    let (dials, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let open = || {
        let (dials, go) = (dials.clone(), go.clone());
        let dial = move || {
            let go = go.clone();
            dials.fetch_add(1, Ordering::SeqCst);
            async move {
                go.notified().await;
                Err(ConnectError::Timeout("10.0.0.1:15008".parse().unwrap()))
            }
        };
        let pool = pool.clone();
        tokio::spawn(async move {
            pool.open(&"a", dial, &ConnectRequest::new("10.0.0.1:80"))
                .await
                .err()
        })
    };
    let waiting: Vec<_> = (0..10).map(|_| open()).collect();
    eventually("the dial", SOON, async || {
        (dials.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await
    .unwrap();
    tokio::task::yield_now().await;
    go.notify_one();
    for result in waiting {
        let shown = soon(result).await.unwrap().unwrap().to_string();
        assert!(
            shown.starts_with("connection timed out, maybe a NetworkPolicy"),
            "{shown}"
        );
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    let again = open();
    go.notify_one();
    assert!(soon(again).await.unwrap().is_some());
    assert_eq!(dials.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn whoever_goes_away_does_not_take_the_dial_with_it() {
    let scene = Arc::new(Scene::new(PoolSettings::default()).await);
    let first = tokio::spawn({
        let scene = scene.clone();
        async move { scene.open("a").await.map(drop) }
    });
    eventually("the dial", SOON, async || {
        (scene.dials() == 1).then_some(())
    })
    .await
    .unwrap();
    let second = tokio::spawn({
        let scene = scene.clone();
        async move { scene.open("a").await.map(drop) }
    });
    tokio::task::yield_now().await;
    first.abort();
    soon(second).await.unwrap().unwrap();
    assert_eq!(scene.pool.tunnels(), 1);
}

#[tokio::test]
async fn an_idle_tunnel_is_let_go_and_a_used_one_is_not() {
    let settings = PoolSettings {
        release_after: Duration::from_millis(40),
        ..Default::default()
    };
    let scene = Scene::new(settings).await;
    let used = scene.open("used").await.unwrap();
    drop(scene.open("idle").await.unwrap());
    eventually("the release", SOON, async || {
        (scene.pool.tunnels() == 1).then_some(())
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(scene.pool.tunnels(), 1);
    drop(used);
    eventually("the release", SOON, async || {
        (scene.pool.tunnels() == 0).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_tunnel_that_was_told_to_go_away_is_replaced() {
    let mesh = Arc::new(Mesh::new().await);
    let pool = Pool::<&str>::new(PoolSettings::default());
    let (drain, server) = (Arc::new(Notify::new()), mesh.clone());
    let draining = drain.clone();
    tokio::spawn(async move {
        loop {
            let mut connection = server.accept(&Http2Settings::server()).await;
            let drain = draining.clone();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        request = connection.accept() => match request {
                            Some(Ok(request)) => drop(tokio::spawn(echo(request))),
                            _ => return,
                        },
                        () = drain.notified() => connection.graceful_shutdown(),
                    }
                }
            });
        }
    });
    let open = || {
        let mesh = mesh.clone();
        let dial = move || client::dial(mesh.dial());
        let pool = pool.clone();
        async move { soon(pool.open(&"a", dial, &ConnectRequest::new("10.0.0.1:80"))).await }
    };
    let held = open().await.unwrap();
    drain.notify_waiters();
    // Until the GOAWAY has arrived, the old tunnel may still be chosen, and refuse.
    eventually("another tunnel", SOON, async || open().await.ok())
        .await
        .unwrap();
    eventually("both tunnels seen", SOON, async || {
        drop(open().await.ok()?);
        (pool.tunnels() == 1).then_some(())
    })
    .await
    .unwrap();
    drop(held);
}

#[tokio::test]
async fn forgotten_keys_keep_their_streams_and_lose_their_tunnels() {
    let scene = Scene::new(PoolSettings::default()).await;
    let mut held = scene.open("gone").await.unwrap();
    let _kept = scene.open("kept").await.unwrap();
    scene.pool.retain(|key| *key != "gone");
    assert_eq!(scene.pool.tunnels(), 1);
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    held.stream.write_all(b"x").await.unwrap();
    assert_eq!(soon(held.stream.read_u8()).await.unwrap(), b'x');
    let _ = scene.open("gone").await.unwrap();
    assert_eq!(scene.dials(), 3);
}

/// A server that ends every tunnel at once must not be dialled in a loop.
#[tokio::test]
async fn a_tunnel_that_fails_when_it_is_new_is_not_dialled_again_and_again() {
    let mesh = Arc::new(Mesh::new().await);
    let server = mesh.clone();
    tokio::spawn(async move {
        loop {
            drop(server.accept(&Http2Settings::server()).await);
        }
    });
    let dials = Arc::new(AtomicUsize::new(0));
    let pool = Pool::<&str>::new(PoolSettings::default());
    let counted = dials.clone();
    let dial = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        client::dial(mesh.dial())
    };
    let result = soon(pool.open(&"a", dial, &ConnectRequest::new("10.0.0.1:80"))).await;
    assert!(result.is_err());
    assert!(dials.load(Ordering::SeqCst) <= 2);
}
