//! What a job does next, and what its status says, decided as pure values.
//!
//! Pods are counted exactly once: a pod that ended keeps a finalizer until its
//! end stands in the status (as an uid, or as a completed index), and only when
//! the finalizer is gone becomes part of the plain counters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::end::End;
use super::failure::{self, Outcome};
use super::indexes::Indexes;
use super::pod::{failures_of, index_of, is_tracked};
use crate::controllers::meta;

/// Pods created or deleted in one pass; the rest follows in the next.
const BURST: usize = 100;

/// An event about the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A pod to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewPod {
    /// The completion index, for indexed jobs.
    pub(crate) index: Option<i32>,
    /// Failures of this index so far.
    pub(crate) failures: i32,
}

/// What to do, in this order: write the status, release, delete, create.
#[derive(Debug, Default)]
pub(crate) struct Plan<'a> {
    pub(crate) status: JobStatus,
    /// Ended pods that stand in the status: their finalizer goes.
    pub(crate) release: Vec<&'a Pod>,
    /// Pods that must end, and count as failures.
    pub(crate) stop: Vec<&'a Pod>,
    /// Pods that are not needed any more, and do not count.
    pub(crate) drop: Vec<&'a Pod>,
    pub(crate) create: Vec<NewPod>,
    pub(crate) reports: Vec<Report>,
    /// When time alone brings the next step.
    pub(crate) recheck: Option<Duration>,
}

/// Whether the job has reached its end, and when.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    Some(
        end.last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    )
}

/// Decides. `pods` are those the job controls; the job is not finished.
pub(crate) fn plan<'a>(job: &Job, pods: &'a [Arc<Pod>], now: Timestamp) -> Plan<'a> {
    let spec = job.spec.clone().unwrap_or_default();
    let mut work = Work {
        job,
        pods: pods.iter().map(|pod| &**pod).collect(),
        indexed: spec.completion_mode.as_deref() == Some("Indexed"),
        suspended: spec.suspend.unwrap_or(false),
        spec,
        now,
        completed: Indexes::default(),
        failed_indexes: Indexes::default(),
        plan: Plan {
            status: job.status.clone().unwrap_or_default(),
            ..Plan::default()
        },
    };
    work.start();
    work.settle();
    work.count_indexes();
    let end = work.end();
    work.collect(end.as_ref());
    match end {
        Some(end) => work.finish(end),
        None => {
            if job.metadata.deletion_timestamp.is_none() {
                work.manage();
            }
            work.note_suspension();
        }
    }
    work.finalize()
}

/// A pass over one job, as far as it has come.
pub(super) struct Work<'j, 'a> {
    pub(super) job: &'j Job,
    pub(super) spec: JobSpec,
    pub(super) pods: Vec<&'a Pod>,
    pub(super) indexed: bool,
    pub(super) suspended: bool,
    pub(super) now: Timestamp,
    pub(super) completed: Indexes,
    pub(super) failed_indexes: Indexes,
    pub(super) plan: Plan<'a>,
}

impl<'a> Work<'_, 'a> {
    fn start(&mut self) {
        if !self.suspended && self.plan.status.start_time.is_none() {
            self.plan.status.start_time = Some(Time(self.now));
        }
    }

    fn uncounted(&mut self) -> &mut UncountedTerminatedPods {
        self.plan
            .status
            .uncounted_terminated_pods
            .get_or_insert_default()
    }

    /// Pods whose finalizer is gone move into the plain counters.
    fn settle(&mut self) {
        let tracked: Vec<String> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        let move_out = |list: &mut Option<Vec<String>>| -> i32 {
            let list = list.get_or_insert_default();
            let before = list.len();
            list.retain(|uid| tracked.contains(uid));
            i32::try_from(before - list.len()).unwrap_or(0)
        };
        let uncounted = self.uncounted();
        let (succeeded, failed) = (
            move_out(&mut uncounted.succeeded),
            move_out(&mut uncounted.failed),
        );
        let status = &mut self.plan.status;
        status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded);
        status.failed = Some(status.failed.unwrap_or(0) + failed);
    }

    fn count_indexes(&mut self) {
        if !self.indexed {
            return;
        }
        let end = self.spec.completions.unwrap_or(0);
        let status = &self.plan.status;
        let known = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or(""), end);
        self.completed = known(&status.completed_indexes);
        self.failed_indexes = known(&status.failed_indexes);
        for pod in &self.pods {
            let Some(index) = index_of(pod).filter(|index| *index < end) else {
                continue;
            };
            if meta::phase(pod) == "Succeeded" {
                self.completed.0.insert(index);
            } else if self.fails_index(pod) {
                self.failed_indexes.0.insert(index);
            }
        }
        self.failed_indexes
            .0
            .retain(|index| !self.completed.0.contains(index));
    }

    /// Whether a pod's failure is the last that its index may have.
    fn fails_index(&self, pod: &Pod) -> bool {
        let Some(limit) = self.spec.backoff_limit_per_index else {
            return false;
        };
        failure::is_failed(self.job, pod)
            && match failure::judge(self.job, pod) {
                Outcome::FailIndex => true,
                Outcome::Ignore => false,
                Outcome::Count | Outcome::FailJob(_) => failures_of(pod) >= limit,
            }
    }

    /// Pods that ended and do not stand in the status yet.
    fn is_new(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let known = self.plan.status.uncounted_terminated_pods.as_ref();
        let lists = known.map(|known| [&known.succeeded, &known.failed]);
        is_tracked(pod)
            && !lists
                .into_iter()
                .flatten()
                .flatten()
                .any(|list| list.contains(&uid))
    }

    fn counts_as_failed(&self, pod: &Pod) -> bool {
        failure::is_failed(self.job, pod) && failure::judge(self.job, pod) != Outcome::Ignore
    }

    pub(super) fn failed(&self) -> i32 {
        let status = &self.plan.status;
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let waiting = uncounted
            .and_then(|u| u.failed.as_ref())
            .map_or(0, Vec::len);
        let new = self
            .pods
            .iter()
            .filter(|pod| self.is_new(pod) && self.counts_as_failed(pod))
            .count();
        status.failed.unwrap_or(0) + i32::try_from(waiting + new).unwrap_or(i32::MAX)
    }

    pub(super) fn succeeded(&self) -> i32 {
        if self.indexed {
            return self.completed.len();
        }
        let status = &self.plan.status;
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let waiting = uncounted
            .and_then(|u| u.succeeded.as_ref())
            .map_or(0, Vec::len);
        let new = self
            .pods
            .iter()
            .filter(|pod| self.is_new(pod) && meta::phase(pod) == "Succeeded")
            .count();
        status.succeeded.unwrap_or(0) + i32::try_from(waiting + new).unwrap_or(i32::MAX)
    }

    pub(super) fn active(&self) -> Vec<&'a Pod> {
        self.pods
            .iter()
            .copied()
            .filter(|pod| meta::is_active(pod))
            .collect()
    }

    /// Notes new ends in the status, and lets go of pods that stand there.
    fn collect(&mut self, end: Option<&End>) {
        let job_fails = end.is_some_and(|end| !end.success);
        let completions = self.spec.completions.unwrap_or(0);
        for pod in self.pods.clone() {
            let succeeded = meta::phase(pod) == "Succeeded";
            let failed = failure::is_failed(self.job, pod);
            let leaving = self.job.metadata.deletion_timestamp.is_some();
            if !is_tracked(pod) || !(succeeded || failed || leaving) {
                continue;
            }
            self.plan.release.push(pod);
            if !self.is_new(pod) {
                continue;
            }
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let in_range = index_of(pod).is_some_and(|index| index < completions);
            if succeeded && !self.indexed {
                self.uncounted().succeeded.get_or_insert_default().push(uid);
            } else if !succeeded
                && (job_fails || self.counts_as_failed(pod))
                && (!self.indexed || in_range)
            {
                self.uncounted().failed.get_or_insert_default().push(uid);
            }
        }
    }

    pub(super) fn condition(&self, type_: &str) -> Option<&JobCondition> {
        let conditions = self.plan.status.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Ends what still runs, and the job when nothing is left.
    fn finish(&mut self, end: End) {
        let active = self.active();
        self.set_condition(end.interim(), "True", &end.reason, &end.message);
        let tracked = self.pods.iter().any(|pod| is_tracked(pod));
        let ending = self.pods.iter().any(|pod| meta::is_terminating(pod));
        if active.is_empty() && !tracked && !ending {
            self.set_condition(end.terminal(), "True", &end.reason, &end.message);
            if end.success {
                self.plan.status.completion_time = Some(Time(self.now));
                self.report(false, "Completed", "Job completed");
            } else {
                self.report(true, &end.reason, &end.message);
            }
        }
        self.plan.stop = active;
    }

    fn report(&mut self, warning: bool, reason: &str, message: &str) {
        self.plan.reports.push(Report {
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
        });
    }

    pub(super) fn look_again(&mut self, delay: Duration) {
        let sooner = self.plan.recheck.map_or(delay, |other| other.min(delay));
        self.plan.recheck = Some(sooner);
    }

    /// As many pods as are wanted now.
    fn manage(&mut self) {
        let active = self.active();
        if self.suspended {
            self.plan.drop = active;
            return;
        }
        let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            None if self.succeeded() > 0 => count(active.len()),
            None => parallelism,
            Some(completions) => (completions - self.succeeded()).min(parallelism).max(0),
        };
        let surplus = usize::try_from(count(active.len()) - wanted).unwrap_or(0);
        let surplus = self.surplus(active.clone(), surplus);
        if !surplus.is_empty() {
            self.plan.drop = surplus;
            return;
        }
        let ending = match failure::replaces_only_ended(self.job) {
            true => self
                .pods
                .iter()
                .filter(|pod| meta::is_terminating(pod))
                .count(),
            false => 0,
        };
        let missing = wanted - count(ending) - count(active.len());
        if let Ok(missing @ 1..) = usize::try_from(missing) {
            self.add(missing.min(BURST), &active);
        }
    }

    /// Pods to drop: those whose index is taken twice, out of range or done,
    /// and `count` in all; the least useful first.
    fn surplus(&self, mut active: Vec<&'a Pod>, count: usize) -> Vec<&'a Pod> {
        let mut dropped = Vec::new();
        if self.indexed {
            let end = self.spec.completions.unwrap_or(0);
            active.sort_by_key(|pod| (index_of(pod), meta::ready_since(pod).is_none()));
            let mut last = None;
            active.retain(|pod| {
                let index = index_of(pod).filter(|index| (0..end).contains(index));
                let useful = index.is_some() && index != last;
                last = index.or(last);
                if !useful {
                    dropped.push(*pod);
                }
                useful
            });
            active.reverse();
        } else {
            active.sort_by_key(|pod| {
                let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
                (
                    meta::node_of(pod).is_some(),
                    meta::phase(pod) == "Running",
                    meta::ready_since(pod).is_some(),
                    std::cmp::Reverse(created),
                )
            });
        }
        let more = count.saturating_sub(dropped.len());
        dropped.extend(active.into_iter().take(more));
        dropped
    }

    /// New pods, unless earlier ones failed a moment ago.
    fn add(&mut self, missing: usize, active: &[&'a Pod]) {
        if !self.indexed {
            if self.may_add(self.pods.clone()) {
                let pod = NewPod {
                    index: None,
                    failures: 0,
                };
                self.plan.create = vec![pod; missing];
            }
            return;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !per_index && !self.may_add(self.pods.clone()) {
            return;
        }
        let mut by_index: BTreeMap<i32, Vec<&Pod>> = BTreeMap::new();
        for pod in &self.pods {
            if let Some(index) = index_of(pod) {
                by_index.entry(index).or_default().push(pod);
            }
        }
        let taken: Vec<i32> = active.iter().filter_map(|pod| index_of(pod)).collect();
        let free = (0..self.spec.completions.unwrap_or(0)).filter(|index| {
            !taken.contains(index)
                && !self.completed.0.contains(index)
                && !self.failed_indexes.0.contains(index)
        });
        for index in free.take(missing).collect::<Vec<_>>() {
            let before = by_index.get(&index).cloned().unwrap_or_default();
            if per_index && !self.may_add(before.clone()) {
                continue;
            }
            let failures = before
                .iter()
                .filter(|pod| self.counts_as_failed(pod))
                .map(|pod| failures_of(pod) + 1)
                .max();
            self.plan.create.push(NewPod {
                index: Some(index),
                failures: failures.unwrap_or(0),
            });
        }
    }

    /// Whether the pods before a new one leave it time; else notes when.
    fn may_add(&mut self, before: Vec<&Pod>) -> bool {
        let ends = before
            .iter()
            .filter(|pod| meta::is_finished(pod) || failure::is_failed(self.job, pod))
            .filter_map(|pod| Some((failure::end_of(pod)?, meta::phase(pod) != "Succeeded")));
        let delay = failure::delay(ends.collect(), self.now);
        if !delay.is_zero() {
            self.look_again(delay);
        }
        delay.is_zero()
    }

    fn note_suspension(&mut self) {
        let known = self.condition("Suspended").map(|c| c.status == "True");
        match (self.suspended, known) {
            (true, Some(true)) | (false, None | Some(false)) => {}
            (true, _) => {
                self.set_condition("Suspended", "True", "JobSuspended", "Job suspended");
                self.report(false, "Suspended", "Job suspended");
            }
            (false, Some(true)) => {
                self.set_condition("Suspended", "False", "JobResumed", "Job resumed");
                self.report(false, "Resumed", "Job resumed");
                // The deadline does not run while a job is suspended.
                self.plan.status.start_time = Some(Time(self.now));
            }
        }
    }

    fn set_condition(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let now = self.now;
        let conditions = self.plan.status.conditions.get_or_insert_default();
        let known = conditions.iter_mut().find(|c| c.type_ == type_);
        if known.as_ref().is_some_and(|c| c.status == status) {
            return;
        }
        let condition = JobCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        };
        match known {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }

    fn finalize(mut self) -> Plan<'a> {
        let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
        let active = self.active();
        let ready = active
            .iter()
            .filter(|pod| meta::ready_since(pod).is_some())
            .count();
        let ending = self
            .pods
            .iter()
            .filter(|pod| meta::is_terminating(pod))
            .count();
        if self.indexed {
            let failed = self
                .spec
                .backoff_limit_per_index
                .map(|_| self.failed_indexes.to_string());
            self.plan.status.succeeded = Some(self.completed.len());
            self.plan.status.completed_indexes =
                Some(self.completed.to_string()).filter(|text| !text.is_empty());
            self.plan.status.failed_indexes = failed;
        }
        let status = &mut self.plan.status;
        status.active = Some(count(active.len())).filter(|count| *count != 0);
        status.ready = Some(count(ready));
        status.terminating = Some(count(ending));
        status.succeeded = status.succeeded.filter(|count| *count != 0);
        status.failed = status.failed.filter(|count| *count != 0);
        if let Some(uncounted) = &mut status.uncounted_terminated_pods {
            for list in [&mut uncounted.succeeded, &mut uncounted.failed] {
                *list = list.take().filter(|list| !list.is_empty());
            }
        }
        self.plan
    }
}

#[cfg(test)]
mod tests;
