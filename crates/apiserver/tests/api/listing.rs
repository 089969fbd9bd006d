//! Lists, pages, selectors, views and watches.

use crate::common::{CONFIG_MAPS, Cluster, PODS, config_map, pod, send_with};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};

async fn make(cluster: &Cluster, name: &str, label: &str) -> Value {
    let mut map = config_map(name);
    map["metadata"]["labels"] = json!({"l": label});
    cluster.post(CONFIG_MAPS, &map).await.ok()
}

/// Reads events of a raw watch until `n` have come or the stream has ended.
async fn watch(cluster: &Cluster, path: &str, accept: &str, n: usize) -> Vec<Value> {
    let request = http::Request::get(path)
        .header("accept", accept)
        .body(kube::client::Body::empty())
        .unwrap();
    let response = cluster.client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = http_body_util::BodyDataStream::new(response.into_body());
    let (mut text, mut events) = (Vec::new(), Vec::new());
    while events.len() < n {
        let piece = tokio::time::timeout(std::time::Duration::from_secs(5), body.next())
            .await
            .expect("no event");
        let Some(piece) = piece else { break };
        text.extend_from_slice(&piece.unwrap());
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            events.push(serde_json::from_slice(&line).unwrap());
        }
    }
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pages_show_one_state() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d"] {
        make(&cluster, name, "x").await;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let params = ListParams::default().labels("l=x").limit(2);
    let first = maps.list(&params).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    // Changes between pages do not show.
    make(&cluster, "bb", "x").await;
    cluster
        .send(
            "DELETE",
            &format!("{CONFIG_MAPS}/d"),
            "application/json",
            "",
        )
        .await
        .ok();
    let second = maps
        .list(&params.clone().continue_token(&token))
        .await
        .unwrap();
    let names: Vec<_> = second
        .items
        .iter()
        .map(|m| m.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(
        first.metadata.resource_version,
        second.metadata.resource_version
    );
    assert!(second.metadata.continue_.is_none());
    let bad = cluster
        .get(&format!("{CONFIG_MAPS}?continue=nonsense"))
        .await;
    bad.refused(400, "BadRequest");
}

#[tokio::test]
async fn selectors() {
    let cluster = Cluster::start().await;
    make(&cluster, "a", "1").await;
    make(&cluster, "b", "2").await;
    let count = async |query: &str| {
        cluster.get(&format!("{CONFIG_MAPS}?{query}")).await.ok()["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("labelSelector=l%20in%20(1,2)").await, 2);
    assert_eq!(count("labelSelector=l%3D1").await, 1);
    assert_eq!(count("&fieldSelector=metadata.name%3Db").await, 1);
    cluster
        .get(&format!("{CONFIG_MAPS}?labelSelector=a%20b"))
        .await
        .refused(400, "BadRequest");
    cluster
        .get(&format!("{CONFIG_MAPS}?fieldSelector=data.a%3D1"))
        .await
        .refused(400, "BadRequest");
}

#[tokio::test]
async fn a_watch_continues_from_a_list_without_gap() {
    let cluster = Cluster::start().await;
    make(&cluster, "a", "1").await;
    let version = cluster.get(CONFIG_MAPS).await.ok()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_string();
    make(&cluster, "b", "1").await;
    cluster
        .send(
            "PATCH",
            &format!("{CONFIG_MAPS}/a"),
            "application/merge-patch+json",
            r#"{"data":{"a":"2"}}"#,
        )
        .await
        .ok();
    cluster
        .send(
            "DELETE",
            &format!("{CONFIG_MAPS}/b"),
            "application/json",
            "",
        )
        .await
        .ok();
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}&timeoutSeconds=3");
    let events = watch(&cluster, &path, "application/json", 3).await;
    assert_eq!(kinds(&events), ["ADDED", "MODIFIED", "DELETED"]);
    let number = |e: &Value| {
        e["object"]["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(
        number(&events[2]) > number(&events[1]),
        "a deletion has a version of its own"
    );
}

#[tokio::test]
async fn selectors_turn_changes_into_additions_and_removals() {
    let cluster = Cluster::start().await;
    let made = make(&cluster, "a", "1").await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    for label in ["2", "2", "1"] {
        let patch = json!({"metadata": {"labels": {"l": label}}, "data": {"n": uuid()}});
        cluster
            .send(
                "PATCH",
                &format!("{CONFIG_MAPS}/a"),
                "application/merge-patch+json",
                patch.to_string(),
            )
            .await
            .ok();
    }
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}&labelSelector=l%3D2");
    let events = watch(&cluster, &path, "application/json", 3).await;
    assert_eq!(kinds(&events), ["ADDED", "MODIFIED", "DELETED"]);
}

fn uuid() -> String {
    format!("{:?}", std::time::Instant::now())
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let cluster = Cluster::start().await;
    make(&cluster, "a", "1").await;
    let path = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0&allowWatchBookmarks=true&labelSelector=l"
    );
    let events = watch(&cluster, &path, "application/json", 2).await;
    assert_eq!(kinds(&events), ["ADDED", "BOOKMARK"]);
    assert_eq!(
        events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(events[1]["object"]["kind"], "ConfigMap");
    let bad = cluster
        .get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true"))
        .await;
    bad.refused(422, "Invalid");
}

#[tokio::test]
async fn expiry_is_an_event_in_the_stream() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=999999999");
    let events = watch(&cluster, &path, "application/json", 9).await;
    assert_eq!(events.len(), 1, "the stream ends after it");
    assert_eq!(
        (&events[0]["type"], &events[0]["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(events[0]["object"]["reason"], "Expired");
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let cluster = Cluster::start().await;
    let path = format!(
        "{CONFIG_MAPS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion=1&labelSelector=none"
    );
    let started = std::time::Instant::now();
    let events = watch(&cluster, &path, "application/json", 9).await;
    assert_eq!(kinds(&events), ["BOOKMARK"]);
    assert!(started.elapsed().as_secs() < 4);
}

#[tokio::test]
async fn tables() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("p")).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = send_with(&cluster.client, "GET", PODS, &[("accept", accept)], "")
        .await
        .ok();
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[..5], ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert_eq!(table["columnDefinitions"][5]["priority"], 1);
    assert_eq!(table["rows"][0]["cells"][2], "Pending");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let full = send_with(
        &cluster.client,
        "GET",
        &format!("{PODS}?includeObject=Object"),
        &[("accept", accept)],
        "",
    )
    .await
    .ok();
    assert_eq!(full["rows"][0]["object"]["kind"], "Pod");
    let events = watch(&cluster, &format!("{PODS}?watch=1"), accept, 1).await;
    assert_eq!(events[0]["object"]["kind"], "Table");
}

#[tokio::test]
async fn metadata_only() {
    let cluster = Cluster::start().await;
    make(&cluster, "a", "1").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let list = maps
        .list_metadata(&ListParams::default().labels("l"))
        .await
        .unwrap();
    assert_eq!(list.items[0].metadata.name.as_deref(), Some("a"));
    let mut stream = std::pin::pin!(
        maps.watch_metadata(&WatchParams::default().labels("l"), "0")
            .await
            .unwrap()
    );
    let event = stream.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(o) if o.metadata.name.as_deref() == Some("a")));
}

#[tokio::test]
async fn kube_watchers_follow_in_both_modes() {
    let cluster = Cluster::start().await;
    make(&cluster, "a", "1").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut stream =
            std::pin::pin!(watcher(maps.clone(), config.labels("l")).applied_objects());
        let first = stream.try_next().await.unwrap().unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("a"));
        let patch = Patch::Merge(json!({"data": {"a": uuid()}}));
        maps.patch("a", &PatchParams::default(), &patch)
            .await
            .unwrap();
        let next = stream.try_next().await.unwrap().unwrap();
        assert_ne!(next.data, first.data);
    }
}

#[tokio::test]
async fn events_of_both_groups_are_the_same_events() {
    use kube::runtime::events::{Event, EventType, Recorder, Reporter};
    let cluster = Cluster::start().await;
    let made = cluster.post(PODS, &pod("p")).await.ok();
    let reporter = Reporter {
        controller: "tester".into(),
        instance: None,
    };
    let recorder = Recorder::new(cluster.client.clone(), reporter);
    let reference = k8s_openapi::api::core::v1::ObjectReference {
        kind: Some("Pod".into()),
        name: Some("p".into()),
        namespace: Some("default".into()),
        uid: made["metadata"]["uid"].as_str().map(Into::into),
        ..Default::default()
    };
    let event = Event {
        type_: EventType::Normal,
        reason: "Tested".into(),
        note: Some("it works".into()),
        action: "Testing".into(),
        secondary: None,
    };
    recorder.publish(&event, &reference).await.unwrap();
    recorder.publish(&event, &reference).await.unwrap();
    let list = cluster
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp")
        .await
        .ok();
    assert_eq!(list["items"][0]["message"], "it works");
    assert_eq!(list["items"][0]["involvedObject"]["kind"], "Pod");
    let list = cluster
        .get("/apis/events.k8s.io/v1/namespaces/default/events")
        .await
        .ok();
    assert_eq!(list["items"][0]["note"], "it works");
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let mut stream = Box::pin(maps.watch(&WatchParams::default(), "0").await.unwrap());
    stream.try_next().await.unwrap();
    maps.create(&PostParams::default(), &ConfigMap::default())
        .await
        .unwrap_err();
    let started = std::time::Instant::now();
    cluster.server.stop().await;
    assert!(started.elapsed().as_secs() < 4);
    let end = std::time::Duration::from_secs(5);
    let drained = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::time::timeout(end, drained)
        .await
        .expect("the stream ends");
}
