//! The order of steps, with every outside part recorded.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::*;
use crate::eligibility::{DEFAULT_SELECTORS, EnablementSelectors};
use crate::rules::{PodCapture, ProbeTarget};

/// Writes down every step; fails those that are named.
#[derive(Clone, Default)]
struct World {
    log: Arc<Mutex<Vec<String>>>,
    failing: Arc<Mutex<Vec<&'static str>>>,
    absent: Arc<Mutex<bool>>,
}

impl World {
    fn note(&self, step: &'static str, detail: &str) -> bool {
        self.log
            .lock()
            .push(format!("{step} {detail}").trim_end().to_owned());
        !self.failing.lock().contains(&step)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock())
    }
}

impl Kernel for World {
    fn find(&self, wanted: &[Wanted]) -> io::Result<HashMap<String, Netns>> {
        if *self.absent.lock() {
            return Ok(HashMap::new());
        }
        wanted
            .iter()
            .map(|w| Ok((w.uid.clone(), Netns::current()?)))
            .collect()
    }

    fn apply(&self, _: &Netns, _: &PodCapture) -> Result<(), ApplyError> {
        let ok = self.note("rules", "");
        if ok {
            Ok(())
        } else {
            Err(ApplyError::NftRefused("no".into()))
        }
    }

    fn remove(&self, _: &Netns) -> Result<(), ApplyError> {
        self.note("no-rules", "");
        Ok(())
    }

    fn set_probes(&self, targets: BTreeMap<ProbeTarget, String>) -> Result<(), ApplyError> {
        let all: Vec<String> = targets
            .keys()
            .map(|t| format!("{}:{}", t.address, t.port))
            .collect();
        self.note("probes", &all.join(","));
        Ok(())
    }
}

impl ProxyLink for World {
    async fn announce(&self, pod: &Announcement, _: OwnedFd) -> Result<(), LinkError> {
        let ok = self.note(
            "announce",
            &format!("{} {} {}", pod.uid, pod.key, pod.service_account),
        );
        if ok {
            Ok(())
        } else {
            Err(LinkError("not connected".into()))
        }
    }

    async fn retain(&self, pod: &Announcement, netns: Option<OwnedFd>) {
        let how = if netns.is_some() { "with" } else { "without" };
        self.note("retain", &format!("{} {how} netns", pod.uid));
    }

    async fn withdraw(&self, uid: &str) -> Result<(), LinkError> {
        self.note("withdraw", uid);
        Ok(())
    }
}

impl Annotator for World {
    async fn annotate(&self, _: &PodKey, _: &str, value: Option<&str>) -> Result<(), String> {
        let ok = self.note("annotate", value.unwrap_or("-"));
        if ok { Ok(()) } else { Err("forbidden".into()) }
    }
}

fn enroller(world: &World) -> Enroller<World, World, World> {
    let eligibility = Eligibility {
        selectors: EnablementSelectors::parse(DEFAULT_SELECTORS).expect("selectors"),
        exclude_namespaces: Default::default(),
        system_namespace: "istio-system".into(),
        dns_capture: true,
        ipv6: true,
    };
    Enroller::new(
        Arc::new(world.clone()),
        world.clone(),
        world.clone(),
        eligibility,
    )
}

fn pod(uid: &str, mark: Option<&str>) -> Pod {
    let annotations: Value = mark.map_or(json!({}), |m| json!({"ambient.istio.io/redirection": m}));
    serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "cart", "uid": uid, "annotations": annotations},
        "spec": {"serviceAccountName": "cart", "containers": [
            {"name": "app", "readinessProbe": {"httpGet": {"port": 9080}}}]},
        "status": {"phase": "Running", "podIP": "10.244.1.7"}
    }))
    .expect("pod")
}

fn ambient(on: bool) -> BTreeMap<String, String> {
    on.then(|| ("istio.io/dataplane-mode".to_owned(), "ambient".to_owned()))
        .into_iter()
        .collect()
}

#[tokio::test]
async fn a_running_pod_goes_in_and_out_in_order() {
    let world = World::default();
    let enroller = enroller(&world);
    assert_eq!(
        enroller.decide(&pod("u", None), &ambient(true)),
        Step::Enrol
    );
    enroller
        .enrol_running(&pod("u", None))
        .await
        .expect("enrol");
    assert_eq!(
        world.take(),
        [
            "rules",
            "announce u shop/cart cart",
            "probes 10.244.1.7:9080",
            "annotate enabled"
        ]
    );
    assert_eq!(
        enroller.decide(&pod("u", Some("enabled")), &ambient(true)),
        Step::Nothing
    );
    assert_eq!(enroller.known().len(), 1);
    assert_eq!(
        enroller.decide(&pod("u", Some("enabled")), &ambient(false)),
        Step::Unenrol
    );
    enroller
        .unenrol(&pod("u", Some("enabled")))
        .await
        .expect("unenrol");
    assert_eq!(
        world.take(),
        ["probes", "no-rules", "withdraw u", "annotate -"]
    );
    assert!(enroller.known().is_empty());
    assert_eq!(
        enroller.decide(&pod("u", None), &ambient(false)),
        Step::Nothing
    );
}

#[tokio::test]
async fn without_the_proxy_a_running_pod_is_pending_and_tried_again() {
    let world = World::default();
    let enroller = enroller(&world);
    world.failing.lock().push("announce");
    assert!(matches!(
        enroller.enrol_running(&pod("u", None)).await,
        Err(EnrolError::Proxy(_))
    ));
    assert_eq!(
        world.take(),
        ["rules", "announce u shop/cart cart", "annotate pending"]
    );
    assert_eq!(enroller.known().len(), 1);
    let pending = pod("u", Some("pending"));
    assert_eq!(enroller.decide(&pending, &ambient(true)), Step::Enrol);
    assert!(enroller.enrol_running(&pending).await.is_err());
    assert!(
        !world.take().contains(&"annotate pending".to_owned()),
        "written once"
    );
    world.failing.lock().clear();
    enroller
        .enrol_running(&pending)
        .await
        .expect("now it works");
    assert_eq!(
        world.take().last().map(String::as_str),
        Some("annotate enabled")
    );
}

#[tokio::test]
async fn a_new_pod_that_fails_leaves_nothing_behind() {
    for step in ["rules", "announce", "annotate"] {
        let world = World::default();
        let enroller = enroller(&world);
        world.failing.lock().push(step);
        let netns = Netns::current().expect("netns");
        let ip = vec!["10.244.1.7".parse().expect("address")];
        enroller
            .enrol_new(&pod("u", None), netns, ip)
            .await
            .expect_err(step);
        let log = world.take();
        assert!(
            !log.contains(&"annotate pending".to_owned()),
            "{step}: {log:?}"
        );
        assert_eq!(
            log[log.len() - 2..],
            ["probes", "withdraw u"],
            "{step}: {log:?}"
        );
        assert!(enroller.known().is_empty(), "{step}");
    }
}

#[tokio::test]
async fn pods_from_before_the_start_are_restored_whatever_their_labels_say() {
    let world = World::default();
    let enroller = enroller(&world);
    let pods = [
        Arc::new(pod("a", Some("enabled"))),
        Arc::new(pod("b", Some("pending"))),
        Arc::new(pod("c", None)),
    ];
    enroller.restore(&pods, true).await.expect("restore");
    assert_eq!(
        world.take(),
        ["rules", "retain a with netns", "probes 10.244.1.7:9080"]
    );
    assert_eq!(enroller.decide(&pods[0], &ambient(false)), Step::Unenrol);
}

#[tokio::test]
async fn a_restored_pod_without_a_namespace_is_kept_and_enrolled_later() {
    let world = World::default();
    *world.absent.lock() = true;
    let enroller = enroller(&world);
    let marked = Arc::new(pod("a", Some("enabled")));
    enroller
        .restore(std::slice::from_ref(&marked), true)
        .await
        .expect("restore");
    assert_eq!(world.take()[0], "retain a without netns");
    assert_eq!(enroller.decide(&marked, &ambient(true)), Step::Enrol);
    assert!(matches!(
        enroller.enrol_running(&marked).await,
        Err(EnrolError::NoNetns)
    ));
    *world.absent.lock() = false;
    enroller.enrol_running(&marked).await.expect("found");
    assert!(
        world
            .take()
            .contains(&"announce a shop/cart cart".to_owned())
    );
}

#[tokio::test]
async fn a_pod_of_the_same_name_replaces_the_one_before() {
    let world = World::default();
    let enroller = enroller(&world);
    enroller
        .enrol_running(&pod("old", None))
        .await
        .expect("enrol");
    world.take();
    enroller
        .forget_others(&PodKey::of(&pod("new", None)), Some("new"))
        .await;
    assert_eq!(world.take(), ["probes", "withdraw old"]);
    assert!(enroller.known().is_empty());
}

#[test]
fn ended_pods_are_forgotten_and_starting_ones_left_to_the_plugin() {
    let world = World::default();
    let enroller = enroller(&world);
    let mut starting = pod("u", None);
    starting.status = serde_json::from_value(json!({"phase": "Pending"})).expect("status");
    assert_eq!(enroller.decide(&starting, &ambient(true)), Step::Nothing);
    let mut ended = pod("u", Some("enabled"));
    ended.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("status");
    assert_eq!(enroller.decide(&ended, &ambient(true)), Step::Nothing);
    enroller
        .members
        .lock()
        .insert(Member::new(&ended, None, Vec::new(), true));
    assert_eq!(enroller.decide(&ended, &ambient(true)), Step::Forget);
    assert_eq!(
        enroller.decide(&pod("x", None), &ambient(false)),
        Step::Nothing
    );
}
