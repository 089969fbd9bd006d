use super::*;
use crate::zds::packet::tests::{pair, send_raw};
use ambit_proto::zds::{DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo};
use std::os::fd::{AsRawFd, RawFd};

fn encode(payload: RequestPayload) -> Vec<u8> {
    WorkloadRequest {
        payload: Some(payload),
    }
    .encode_to_vec()
}

fn add(uid: &str) -> Vec<u8> {
    let info = WorkloadInfo {
        name: "cart-0".to_owned(),
        namespace: "shop".to_owned(),
        service_account: "cart".to_owned(),
    };
    encode(RequestPayload::Add(AddWorkload {
        uid: uid.to_owned(),
        workload_info: Some(info),
    }))
}

/// A connection, and the agent's end of it after the hello.
async fn connected() -> (Connection, Packets) {
    let (ours, theirs) = pair();
    let connection = Connection::greet(ours).await.unwrap();
    let hello = theirs.receive().await.unwrap().unwrap();
    assert_eq!(hello.data, [8, 1]);
    (connection, theirs)
}

async fn answer(agent: &Packets) -> Vec<u8> {
    agent.receive().await.unwrap().unwrap().data
}

async fn answer_text(agent: &Packets) -> String {
    let response = WorkloadResponse::decode(answer(agent).await.as_slice()).unwrap();
    let Some(ResponsePayload::Ack(ack)) = response.payload else {
        panic!("no ack")
    };
    ack.error
}

#[tokio::test]
async fn requests_are_taken_and_answered() {
    let (mut connection, agent) = connected().await;
    let netns = std::fs::File::open("/proc/self/ns/net").unwrap();
    send_raw(&agent, &add("u1"), &[netns.as_raw_fd()]);
    let Some(Request::Add { pod, .. }) = connection.next().await.unwrap() else {
        panic!()
    };
    assert_eq!((pod.uid.as_str(), pod.name.as_str()), ("u1", "cart-0"));
    connection.ack(Ok(())).await.unwrap();
    assert_eq!(
        answer(&agent).await,
        [0x0a, 0x00],
        "an empty ack is present"
    );
    send_raw(
        &agent,
        &encode(RequestPayload::Keep(KeepWorkload {
            uid: "u2".to_owned(),
        })),
        &[],
    );
    assert!(matches!(connection.next().await.unwrap(), Some(Request::Keep { uid }) if uid == "u2"));
    connection.ack(Err("no".to_owned())).await.unwrap();
    assert_eq!(answer_text(&agent).await, "no");
    let sent = encode(RequestPayload::SnapshotSent(SnapshotSent {}));
    assert_eq!(sent, [0x1a, 0x00]);
    send_raw(&agent, &sent, &[]);
    assert!(matches!(
        connection.next().await.unwrap(),
        Some(Request::SnapshotSent)
    ));
    let del = encode(RequestPayload::Del(DelWorkload {
        uid: "u1".to_owned(),
    }));
    assert_eq!(
        del,
        [0x12, 0x04, 0x12, 0x02, b'u', b'1'],
        "the uid of del is field 2"
    );
    send_raw(&agent, &del, &[]);
    assert!(
        matches!(connection.next().await.unwrap(), Some(Request::Delete { uid }) if uid == "u1")
    );
    drop(agent);
    assert!(connection.next().await.unwrap().is_none());
}

#[tokio::test]
async fn long_error_texts_are_cut_to_a_packet() {
    let (mut connection, agent) = connected().await;
    connection.ack(Err("ä".repeat(2000))).await.unwrap();
    assert_eq!(answer_text(&agent).await, "ä".repeat(MAX_ERROR / 2));
}

/// Sends one packet; the connection must refuse it, tell the agent why, and end.
async fn refused(data: &[u8], fds: &[RawFd]) -> String {
    let (mut connection, agent) = connected().await;
    send_raw(&agent, data, fds);
    let error = connection.next().await.unwrap_err().to_string();
    assert_eq!(answer_text(&agent).await, error);
    error
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let file = std::fs::File::open("/proc/self/ns/net").unwrap();
    let fd = file.as_raw_fd();
    let none = refused(&add("u1"), &[]).await;
    assert!(none.contains("exactly one descriptor"), "{none}");
    let two = refused(&add("u1"), &[fd, fd]).await;
    assert!(two.contains("exactly one descriptor"), "{two}");
    let too_long = refused(&[0; MAX_PACKET + 1], &[]).await;
    assert!(too_long.contains("more than 1024 bytes"), "{too_long}");
    let garbage = refused(&[0xff; 40], &[]).await;
    assert!(garbage.starts_with("failure to decode"), "{garbage}");
    let nothing = refused(&[0x78, 0x01], &[]).await;
    assert!(nothing.contains("no payload"), "{nothing}");
    let bare = AddWorkload {
        uid: "u1".to_owned(),
        workload_info: None,
    };
    let bare = refused(&encode(RequestPayload::Add(bare)), &[fd]).await;
    assert!(bare.starts_with("failure to process message : "), "{bare}");
    let sent = encode(RequestPayload::SnapshotSent(SnapshotSent {}));
    let stray = refused(&sent, &[fd]).await;
    assert!(stray.contains("takes none"), "{stray}");
}

#[tokio::test]
async fn after_the_snapshot_nothing_can_be_kept() {
    for late in [
        RequestPayload::Keep(KeepWorkload {
            uid: "u1".to_owned(),
        }),
        RequestPayload::SnapshotSent(SnapshotSent {}),
    ] {
        let (mut connection, agent) = connected().await;
        send_raw(
            &agent,
            &encode(RequestPayload::SnapshotSent(SnapshotSent {})),
            &[],
        );
        connection.next().await.unwrap();
        connection.ack(Ok(())).await.unwrap();
        answer(&agent).await;
        send_raw(&agent, &encode(late), &[]);
        let error = connection.next().await.unwrap_err().to_string();
        assert!(
            error.starts_with("failure to process message : "),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_absent_agent_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ztunnel.sock");
    let error = Connection::open(&path, &PeerCheck::uid(0))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("ztunnel.sock") && error.contains("CNI agent"),
        "{error}"
    );
}
