use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::zds::packet::tests::{pair, send_raw};
use crate::zds::proxy::{self, Request};
use nix::unistd::geteuid;

/// An agent that listens in a directory of its own.
struct Fixture {
    agent: Agent,
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn start(check: PeerCheck) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ztunnel.sock");
        let agent = Agent::new();
        let task = tokio::spawn(agent.listen(&path, check).unwrap());
        Self {
            agent,
            path,
            task,
            _dir: dir,
        }
    }

    async fn connect(&self) -> proxy::Connection {
        proxy::Connection::open(&self.path, &own()).await.unwrap()
    }

    async fn wait_for_connections(&self, count: usize) {
        let mut connected = self.agent.connected();
        let waited = connected.wait_for(|now| *now == count);
        tokio::time::timeout(Duration::from_secs(10), waited)
            .await
            .unwrap()
            .unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn own() -> PeerCheck {
    PeerCheck::uid(geteuid().as_raw())
}

fn pod(uid: &str) -> Pod {
    Pod {
        uid: uid.to_owned(),
        name: format!("{uid}-name"),
        namespace: "shop".to_owned(),
        service_account: "cart".to_owned(),
    }
}

fn netns() -> Arc<OwnedFd> {
    Arc::new(File::open("/proc/self/ns/net").unwrap().into())
}

/// Takes a request, answers it, and says what it was.
async fn take(connection: &mut proxy::Connection, answer: Result<(), String>) -> String {
    let request = tokio::time::timeout(Duration::from_secs(10), connection.next()).await;
    let text = match request.unwrap().unwrap() {
        None => return "closed".to_owned(),
        Some(Request::Add { pod, netns }) => {
            let own = std::fs::metadata("/proc/self/ns/net").unwrap();
            let passed = File::from(netns).metadata().unwrap();
            assert_eq!((passed.dev(), passed.ino()), (own.dev(), own.ino()));
            format!("add {} {}", pod.uid, pod.name)
        }
        Some(Request::Keep { uid }) => format!("keep {uid}"),
        Some(Request::Delete { uid }) => format!("del {uid}"),
        Some(Request::SnapshotSent) => "sent".to_owned(),
    };
    connection.ack(answer).await.unwrap();
    text
}

async fn take_all(connection: &mut proxy::Connection, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(take(connection, Ok(())).await);
    }
    taken
}

#[tokio::test]
async fn a_proxy_gets_the_snapshot_and_then_changes() {
    let fixture = Fixture::start(own());
    let agent = &fixture.agent;
    assert!(matches!(
        agent.add(pod("a"), netns()).await,
        Err(SendError::NoProxy)
    ));
    agent.keep(pod("b"));
    let mut proxy = fixture.connect().await;
    assert_eq!(
        take_all(&mut proxy, 3).await,
        ["add a a-name", "keep b", "sent"]
    );
    let (added, taken) = tokio::join!(agent.add(pod("c"), netns()), take(&mut proxy, Ok(())));
    assert_eq!((added.is_ok(), taken.as_str()), (true, "add c c-name"));
    let refusal = Err("address in use".to_owned());
    let (added, _) = tokio::join!(agent.add(pod("d"), netns()), take(&mut proxy, refusal));
    assert!(matches!(added, Err(SendError::Refused(text)) if text == "address in use"));
    assert!(agent.knows("d"), "a refused pod stays announced");
    let (deleted, taken) = tokio::join!(agent.delete("a"), take(&mut proxy, Ok(())));
    assert_eq!((deleted.is_ok(), taken.as_str()), (true, "del a"));
    let uids: Vec<String> = agent.pods().into_iter().map(|pod| pod.uid).collect();
    assert_eq!(uids, ["b", "c", "d"]);
}

#[tokio::test]
async fn additions_go_to_the_newest_proxy_and_removals_to_all() {
    let fixture = Fixture::start(own());
    let agent = &fixture.agent;
    let mut old = fixture.connect().await;
    assert_eq!(take(&mut old, Ok(())).await, "sent");
    let mut new = fixture.connect().await;
    assert_eq!(take(&mut new, Ok(())).await, "sent");
    let (added, taken) = tokio::join!(agent.add(pod("a"), netns()), take(&mut new, Ok(())));
    assert_eq!((added.is_ok(), taken.as_str()), (true, "add a a-name"));
    let (deleted, by_old, by_new) = tokio::join!(
        agent.delete("a"),
        take(&mut old, Ok(())),
        take(&mut new, Ok(()))
    );
    assert_eq!(
        (deleted.is_ok(), by_old.as_str(), by_new.as_str()),
        (true, "del a", "del a")
    );
    drop(new);
    fixture.wait_for_connections(1).await;
    let (added, taken) = tokio::join!(agent.add(pod("b"), netns()), take(&mut old, Ok(())));
    assert_eq!((added.is_ok(), taken.as_str()), (true, "add b b-name"));
}

#[tokio::test]
async fn changes_during_the_snapshot_queue_behind_it() {
    let fixture = Fixture::start(own());
    let agent = &fixture.agent;
    let _ = agent.add(pod("a"), netns()).await;
    let mut proxy = fixture.connect().await;
    // With its first request here the snapshot is taken.
    let first = proxy.next().await.unwrap();
    assert!(matches!(first, Some(Request::Add { pod, .. }) if pod.uid == "a"));
    let (added, taken) = tokio::join!(agent.add(pod("b"), netns()), async {
        proxy.ack(Ok(())).await.unwrap();
        take_all(&mut proxy, 2).await
    });
    added.unwrap();
    assert_eq!(taken, ["sent", "add b b-name"]);
}

#[tokio::test]
async fn a_client_of_another_user_is_refused() {
    let fixture = Fixture::start(PeerCheck::uid(geteuid().as_raw() + 1));
    let mut proxy = fixture.connect().await;
    // Closed without a word, and never counted.
    assert!(!matches!(proxy.next().await, Ok(Some(_))));
    assert_eq!(*fixture.agent.connected().borrow(), 0);
}

#[tokio::test]
async fn a_proxy_checks_who_listens() {
    let fixture = Fixture::start(own());
    let other = PeerCheck::uid(geteuid().as_raw() + 1);
    let error = proxy::Connection::open(&fixture.path, &other)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("only uid"), "{error}");
}

/// What the agent makes of packets that a client sends first.
async fn verdict(packets: &[(&[u8], usize)]) -> String {
    let (client, server) = pair();
    let agent = Agent::new();
    let (_, commands) = agent.register();
    let file = File::open("/dev/null").unwrap();
    for (data, fds) in packets {
        send_raw(&client, data, &vec![file.as_raw_fd(); *fds]);
    }
    match Connection::new(server, commands).run(&agent).await {
        Ok(()) => "closed".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn garbage_is_named_and_ends_the_connection() {
    let hello: (&[u8], usize) = (&[8, 1], 0);
    let garbage = verdict(&[(&[0xff; 30], 0)]).await;
    assert!(
        garbage.contains("its hello cannot be understood"),
        "{garbage}"
    );
    let long = verdict(&[(&[8; 1025], 0)]).await;
    assert!(long.contains("more than 1024 bytes"), "{long}");
    let with_fd = verdict(&[(&[8, 1], 1)]).await;
    assert!(with_fd.contains("came with descriptors"), "{with_fd}");
    let bad_answer = verdict(&[hello, (&[0xff; 30], 0)]).await;
    assert!(
        bad_answer.contains("its answer cannot be understood"),
        "{bad_answer}"
    );
    let unasked = verdict(&[hello, (&[0x0a, 0], 0), (&[0x0a, 0], 0)]).await;
    assert!(unasked.contains("nobody asked"), "{unasked}");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_ours_removed() {
    let fixture = Fixture::start(own());
    let second = Agent::new();
    let future = second.listen(&fixture.path, own()).unwrap();
    drop(future);
    assert!(!fixture.path.exists());
}
