use super::*;
use ambit_proto::discovery as pb;
use prost::Message;

const OPTIONS: TypeOptions = TypeOptions {
    type_url: "type",
    versioned: true,
};

fn new_log() -> Arc<ResourceLog> {
    Logs::new(&[OPTIONS]).get("type").unwrap().clone()
}

fn resource(name: &str, body: &str) -> Resource {
    Resource {
        name: name.into(),
        aliases: vec![format!("/{name}-ip").into()],
        groups: vec!["ns/svc".into()],
        body: Bytes::from(body.to_owned()),
    }
}

fn set(log: &ResourceLog, items: &[(&str, &str)]) -> usize {
    let set = items
        .iter()
        .map(|(name, body)| resource(name, body))
        .collect();
    log.publish(Batch {
        set,
        remove: Vec::new(),
    })
}

fn remove(log: &ResourceLog, names: &[&str]) -> usize {
    let remove = names.iter().map(|name| Text::from(*name)).collect();
    log.publish(Batch {
        set: Vec::new(),
        remove,
    })
}

fn names(changes: &Changes) -> Vec<String> {
    let decode = |bytes: &Bytes| pb::Resource::decode(bytes.clone()).unwrap().name;
    changes.resources.iter().map(decode).collect()
}

#[test]
fn a_cursor_sees_each_name_once_where_it_changed_last() {
    let log = new_log();
    assert_eq!(set(&log, &[("a", "1"), ("b", "1")]), 2);
    let start = log.head();
    assert_eq!(set(&log, &[("b", "1")]), 0, "nothing changed");
    assert_eq!(set(&log, &[("b", "2"), ("c", "1")]), 2);
    assert_eq!(set(&log, &[("b", "3")]), 1);
    let changes = log.since(start, &Wanted::All);
    assert_eq!(names(&changes), ["c", "b"]);
    assert_eq!(names(&log.since(changes.head, &Wanted::All)), [""; 0]);
}

#[test]
fn removal_is_seen_and_a_return_replaces_it() {
    let log = new_log();
    set(&log, &[("a", "1"), ("b", "1")]);
    let start = log.head();
    assert_eq!(remove(&log, &["a", "unknown"]), 1);
    let changes = log.since(start, &Wanted::All);
    assert_eq!(
        (names(&changes).len(), changes.removed),
        (0, vec!["a".to_owned()])
    );
    set(&log, &[("a", "1")]);
    let changes = log.since(start, &Wanted::All);
    assert_eq!(
        (names(&changes), changes.removed.len()),
        (vec!["a".to_owned()], 0)
    );
    assert_eq!(log.len(), 2);
}

#[test]
fn a_returning_client_gets_only_what_differs() {
    let log = new_log();
    set(&log, &[("a", "1"), ("b", "1"), ("c", "1")]);
    let known: BTreeMap<String, String> = [
        ("a".to_owned(), version_of(b"1")),
        ("b".to_owned(), version_of(b"0")),
        ("gone".to_owned(), String::new()),
    ]
    .into();
    let changes = log.initial(&known, &Wanted::All);
    assert_eq!(names(&changes), ["b", "c"]);
    assert_eq!(changes.removed, ["gone"]);
}

#[test]
fn without_versions_everything_is_sent_again() {
    let logs = Logs::new(&[TypeOptions {
        type_url: "type",
        versioned: false,
    }]);
    let log = logs.get("type").unwrap();
    set(log, &[("a", "1")]);
    let known = [("a".to_owned(), String::new())].into();
    assert_eq!(names(&log.initial(&known, &Wanted::All)), ["a"]);
}

#[test]
fn versions_are_hashes_in_lower_case_hexadecimal() {
    // The value of the reference implementation for the empty input with seed 0.
    assert_eq!(version_of(b""), "ef46db3751d8e999");
}

#[test]
fn tombstones_live_as_long_as_somebody_needs_them() {
    let log = new_log();
    let many: Vec<String> = (0..TOMBSTONES + 10).map(|i| format!("n{i}")).collect();
    let cursor = log.cursor();
    for name in &many {
        set(&log, &[(name, "1")]);
    }
    cursor.move_to(log.head());
    for name in &many {
        remove(&log, &[name]);
    }
    assert_eq!(
        log.since(cursor.position(), &Wanted::All).removed.len(),
        many.len()
    );
    cursor.move_to(log.head());
    set(&log, &[("x", "1")]);
    assert_eq!(log.state.read().tombstones, 0);
    assert_eq!(log.len(), 1);
    drop(cursor);
    assert!(log.cursors.lock().is_empty());
}

#[test]
fn a_complete_state_removes_the_rest() {
    let log = new_log();
    set(&log, &[("a", "1"), ("b", "1")]);
    let start = log.head();
    assert_eq!(
        log.replace_all(vec![resource("a", "1"), resource("c", "1")]),
        2
    );
    let changes = log.since(start, &Wanted::All);
    assert_eq!(
        (names(&changes), changes.removed),
        (vec!["c".to_owned()], vec!["b".to_owned()])
    );
}

#[test]
fn resources_are_found_by_name_alias_and_group() {
    let log = new_log();
    set(&log, &[("a", "1"), ("b", "1")]);
    let find = |keys: &[&str]| log.find(&keys.iter().map(|key| Text::from(*key)).collect());
    assert_eq!(names(&find(&["a"])), ["a"]);
    let by_alias = find(&["/b-ip", "nothing"]);
    assert_eq!(
        (names(&by_alias), by_alias.removed),
        (vec!["b".to_owned()], vec!["nothing".to_owned()])
    );
    assert_eq!(names(&find(&["ns/svc"])), ["a", "b"]);
    let wire = find(&["a"]).resources.remove(0);
    assert_eq!(pb::Resource::decode(wire).unwrap().aliases, ["/a-ip"]);
    let start = log.head();
    set(&log, &[("c", "1")]);
    let wanted = Wanted::Keys(["ns/svc".into()].into());
    assert_eq!(names(&log.since(start, &wanted)), ["c"]);
    let other = Wanted::Keys(["other".into()].into());
    assert_eq!(names(&log.since(start, &other)), [""; 0]);
    remove(&log, &["a"]);
    assert_eq!(names(&find(&["/a-ip"])), [""; 0]);
}
