use super::*;
use crate::controllers::job::pod;
use serde_json::{Value, json};

/// A job whose controller and kubelet are played step by step.
struct Play {
    job: Job,
    pods: Vec<Arc<Pod>>,
    now: Timestamp,
    made: usize,
    reports: Vec<String>,
}

impl Play {
    fn new(spec: Value) -> Self {
        let mut spec = spec;
        spec["template"] =
            json!({"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}});
        let job = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"}, "spec": spec});
        Self {
            job: serde_json::from_value(job).unwrap(),
            pods: Vec::new(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            made: 0,
            reports: Vec::new(),
        }
    }

    /// Carries out passes until one has nothing to do.
    fn settle(&mut self) {
        for _ in 0..20 {
            if !self.pass() {
                return;
            }
        }
        panic!("never settles: {:#?}", self.job.status);
    }

    fn pass(&mut self) -> bool {
        if finished_at(&self.job).is_some() {
            return false;
        }
        let pods = self.pods.clone();
        let plan = plan(&self.job, &pods, self.now);
        let names = |list: &[&Pod]| -> Vec<String> {
            list.iter()
                .filter_map(|pod| pod.metadata.uid.clone())
                .collect()
        };
        let (release, stop, drop) = (names(&plan.release), names(&plan.stop), names(&plan.drop));
        let mut changed = self.job.status.as_ref() != Some(&plan.status);
        changed |= !release.is_empty() || !stop.is_empty() || !drop.is_empty();
        changed |= !plan.create.is_empty();
        self.reports
            .extend(plan.reports.iter().map(|report| report.reason.clone()));
        self.job.status = Some(plan.status.clone());
        for pod in &mut self.pods {
            let pod = Arc::make_mut(pod);
            let uid = pod.metadata.uid.clone().unwrap();
            if release.contains(&uid) || drop.contains(&uid) {
                pod.metadata.finalizers = None;
            }
            if stop.contains(&uid) || drop.contains(&uid) {
                pod.metadata.deletion_timestamp = Some(Time(self.now));
            }
        }
        for wanted in plan.create.clone() {
            let mut pod = pod::new(&self.job, wanted);
            pod.metadata.uid = Some(format!("p{}", self.made));
            pod.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
            self.made += 1;
            self.pods.push(Arc::new(pod));
        }
        changed
    }

    fn end(&mut self, uid: &str, code: i32) {
        let pod = self
            .pods
            .iter_mut()
            .find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        let pod = Arc::make_mut(pod.unwrap());
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        pod.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": code, "finishedAt": self.now.to_string()}}}]}))
        .unwrap();
    }

    /// The kubelet is done with all deleted pods.
    fn bury(&mut self) {
        self.pods
            .retain(|pod| pod.metadata.deletion_timestamp.is_none() || is_tracked(pod));
    }

    fn active(&self) -> Vec<String> {
        let active = self.pods.iter().filter(|pod| meta::is_active(pod));
        active.filter_map(|pod| pod.metadata.uid.clone()).collect()
    }

    fn wait(&mut self, seconds: i64) {
        self.now = Timestamp::from_second(self.now.as_second() + seconds).unwrap();
    }

    fn counts(&self) -> (i32, i32) {
        let status = self.job.status.clone().unwrap();
        (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0))
    }

    /// `type:reason` of all true conditions.
    fn conditions(&self) -> Vec<String> {
        let conditions = self
            .job
            .status
            .clone()
            .unwrap()
            .conditions
            .unwrap_or_default();
        let held = conditions.into_iter().filter(|c| c.status == "True");
        held.map(|c| format!("{}:{}", c.type_, c.reason.unwrap_or_default()))
            .collect()
    }

    fn change(&mut self, spec: Value) {
        let mut job = serde_json::to_value(&self.job).unwrap();
        for (key, value) in spec.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        self.job = serde_json::from_value(job).unwrap();
    }
}

#[test]
fn as_many_at_once_as_allowed_and_as_many_in_all_as_wanted() {
    let mut play = Play::new(json!({"completions": 3, "parallelism": 2, "backoffLimit": 6}));
    play.settle();
    assert_eq!(play.active(), ["p0", "p1"]);
    play.end("p0", 0);
    play.settle();
    assert_eq!(
        (play.active(), play.counts()),
        (vec!["p1".into(), "p2".into()], (1, 0))
    );
    play.end("p1", 0);
    play.end("p2", 0);
    play.settle();
    assert_eq!(play.counts(), (3, 0));
    assert_eq!(
        play.conditions(),
        [
            "SuccessCriteriaMet:CompletionsReached",
            "Complete:CompletionsReached"
        ]
    );
    assert_eq!(play.reports, ["Completed"]);
    assert!(finished_at(&play.job).is_some());
    assert!(play.job.status.unwrap().completion_time.is_some());
    assert!(!play.pods.iter().any(|pod| is_tracked(pod)));
}

#[test]
fn failed_pods_are_replaced_after_a_while_until_the_limit() {
    let mut play = Play::new(json!({"completions": 1, "parallelism": 1, "backoffLimit": 1}));
    play.settle();
    play.end("p0", 1);
    play.settle();
    assert_eq!((play.active().len(), play.counts()), (0, (0, 1)));
    play.wait(10);
    play.settle();
    assert_eq!(play.active(), ["p1"]);
    play.end("p1", 1);
    play.settle();
    assert_eq!(
        play.conditions(),
        [
            "FailureTarget:BackoffLimitExceeded",
            "Failed:BackoffLimitExceeded"
        ]
    );
    assert_eq!(
        (play.counts(), play.reports.clone()),
        ((0, 2), vec!["BackoffLimitExceeded".into()])
    );
}

#[test]
fn a_deadline_ends_what_runs_and_counts_it() {
    let mut play =
        Play::new(json!({"completions": 2, "parallelism": 2, "activeDeadlineSeconds": 30}));
    play.settle();
    play.wait(31);
    play.settle();
    assert_eq!(play.conditions(), ["FailureTarget:DeadlineExceeded"]);
    assert_eq!(play.active(), [""; 0]);
    play.bury();
    play.settle();
    assert_eq!(play.counts(), (0, 2));
    assert_eq!(play.conditions().last().unwrap(), "Failed:DeadlineExceeded");
}

#[test]
fn a_work_queue_ends_with_its_first_success() {
    let mut play = Play::new(json!({"parallelism": 2}));
    play.settle();
    play.end("p0", 0);
    play.settle();
    assert_eq!((play.active(), play.made), (vec!["p1".into()], 2));
    assert!(play.conditions().is_empty());
    play.end("p1", 1);
    play.settle();
    assert_eq!(
        play.conditions().last().unwrap(),
        "Complete:CompletionsReached"
    );
}

#[test]
fn suspended_jobs_have_no_pods_and_lose_no_time() {
    let spec =
        json!({"completions": 1, "parallelism": 1, "suspend": true, "activeDeadlineSeconds": 5});
    let mut play = Play::new(spec);
    play.settle();
    assert_eq!(
        (play.made, play.conditions()),
        (0, vec!["Suspended:JobSuspended".into()])
    );
    assert!(play.job.status.as_ref().unwrap().start_time.is_none());
    play.wait(60);
    play.change(json!({"suspend": false}));
    play.settle();
    assert_eq!(play.active(), ["p0"]);
    play.change(json!({"suspend": true}));
    play.settle();
    play.bury();
    play.settle();
    // Pods that suspension ended are no failures.
    assert_eq!((play.counts(), play.pods.len()), ((0, 0), 0));
    assert_eq!(play.reports, ["Suspended", "Resumed", "Suspended"]);
}

#[test]
fn every_index_succeeds_once() {
    let mut play =
        Play::new(json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"}));
    play.settle();
    let index = |play: &Play, uid: &str| {
        let pod = play
            .pods
            .iter()
            .find(|pod| pod.metadata.uid.as_deref() == Some(uid))
            .unwrap();
        index_of(pod).unwrap()
    };
    assert_eq!((index(&play, "p0"), index(&play, "p1")), (0, 1));
    play.end("p1", 0);
    play.settle();
    assert_eq!(index(&play, "p2"), 2);
    assert_eq!(
        play.job
            .status
            .as_ref()
            .unwrap()
            .completed_indexes
            .as_deref(),
        Some("1")
    );
    play.end("p0", 3);
    play.settle();
    play.wait(10);
    play.settle();
    assert_eq!(index(&play, "p3"), 0, "a failed index is tried again");
    for uid in ["p2", "p3"] {
        play.end(uid, 0);
    }
    play.settle();
    play.end("p4", 0);
    play.settle();
    let status = play.job.status.clone().unwrap();
    assert_eq!(status.completed_indexes.as_deref(), Some("0-3"));
    assert_eq!((play.counts(), play.conditions().len()), ((4, 1), 2));
}

#[test]
fn indexes_fail_on_their_own_account() {
    let mut play = Play::new(
        json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed",
        "backoffLimitPerIndex": 0, "backoffLimit": 100}),
    );
    play.settle();
    play.end("p0", 1);
    play.settle();
    assert_eq!(play.active(), ["p1"]);
    assert_eq!(
        play.job.status.as_ref().unwrap().failed_indexes.as_deref(),
        Some("0")
    );
    play.end("p1", 0);
    play.settle();
    assert_eq!(play.conditions().last().unwrap(), "Failed:FailedIndexes");
}

#[test]
fn enough_successes_can_end_an_indexed_job_early() {
    let mut play = Play::new(
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0,2", "succeededCount": 1}]}}),
    );
    play.settle();
    play.end("p1", 0);
    play.settle();
    assert!(play.conditions().is_empty());
    play.end("p2", 0);
    play.settle();
    assert_eq!(play.conditions(), ["SuccessCriteriaMet:SuccessPolicy"]);
    play.bury();
    play.settle();
    assert_eq!(play.conditions().last().unwrap(), "Complete:SuccessPolicy");
}

#[test]
fn a_failure_policy_can_end_the_job_or_forgive() {
    let rules = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [9]}}]});
    let mut play = Play::new(
        json!({"completions": 1, "parallelism": 1, "backoffLimit": 0,
        "podFailurePolicy": rules}),
    );
    play.settle();
    play.end("p0", 9);
    play.settle();
    play.wait(10);
    play.settle();
    assert_eq!((play.active(), play.counts()), (vec!["p1".into()], (0, 0)));
    play.end("p1", 42);
    play.settle();
    assert_eq!(play.conditions().last().unwrap(), "Failed:PodFailurePolicy");
}

#[test]
fn fewer_at_once_drops_without_counting() {
    let mut play = Play::new(json!({"completions": 9, "parallelism": 3}));
    play.settle();
    play.change(json!({"parallelism": 1}));
    play.settle();
    assert_eq!((play.active().len(), play.counts()), (1, (0, 0)));
}

/// Whatever order pods end in, each end is counted exactly once.
#[test]
fn ends_are_counted_once() {
    for seed in 0..60u64 {
        let completions = 1 + (seed % 5);
        let mut play = Play::new(
            json!({"completions": completions, "parallelism": 1 + seed % 3,
            "backoffLimit": 1000, "completionMode": if seed % 2 == 0 { "Indexed" } else { "NonIndexed" }}),
        );
        let (mut random, mut succeeded, mut failed) = (seed + 1, 0, 0);
        while finished_at(&play.job).is_none() {
            play.pass();
            play.bury();
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let active = play.active();
            if active.is_empty() {
                play.wait(700);
                continue;
            }
            let uid = active[usize::try_from(random >> 40).unwrap() % active.len()].clone();
            let fails = (random >> 33) % 3 == 0;
            play.end(&uid, i32::from(fails));
            if fails { failed += 1 } else { succeeded += 1 }
        }
        assert_eq!(play.counts(), (succeeded, failed), "seed {seed}");
        assert_eq!(u64::try_from(succeeded).unwrap(), completions);
    }
}
