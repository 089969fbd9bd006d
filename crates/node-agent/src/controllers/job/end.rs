//! When and why a job ends.

use std::time::Duration;

use super::failure::{self, Outcome};
use super::indexes::Indexes;
use super::plan::Work;
use crate::controllers::meta;

/// Why a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl End {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self {
            success: false,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    fn success(reason: &str, message: impl Into<String>) -> Self {
        Self {
            success: true,
            ..Self::failure(reason, message)
        }
    }

    /// The condition set first, while pods are still ending.
    pub(super) fn interim(&self) -> &'static str {
        if self.success {
            "SuccessCriteriaMet"
        } else {
            "FailureTarget"
        }
    }

    /// The condition of the end itself.
    pub(super) fn terminal(&self) -> &'static str {
        if self.success { "Complete" } else { "Failed" }
    }
}

impl Work<'_, '_> {
    /// Why the job ends now, if it does. An end that was decided once stays.
    pub(super) fn end(&mut self) -> Option<End> {
        for (type_, success) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
            if let Some(known) = self.condition(type_).filter(|c| c.status == "True") {
                let text = |value: &Option<String>| value.clone().unwrap_or_default();
                return Some(End {
                    success,
                    reason: text(&known.reason),
                    message: text(&known.message),
                });
            }
        }
        self.end_by_policy()
            .or_else(|| self.end_by_limits())
            .or_else(|| self.end_by_indexes())
            .or_else(|| self.end_by_completions())
    }

    fn end_by_policy(&self) -> Option<End> {
        let failed = self
            .pods
            .iter()
            .filter(|pod| failure::is_failed(self.job, pod));
        failed
            .filter_map(|pod| match failure::judge(self.job, pod) {
                Outcome::FailJob(message) => Some(End::failure("PodFailurePolicy", message)),
                _ => None,
            })
            .next()
    }

    fn end_by_limits(&mut self) -> Option<End> {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed() > limit || self.restarts_reach(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(End::failure("BackoffLimitExceeded", message));
        }
        let deadline = self
            .spec
            .active_deadline_seconds
            .filter(|_| !self.suspended)?;
        let started = self.plan.status.start_time.as_ref()?.0.as_millisecond();
        let left = started + deadline * 1000 - self.now.as_millisecond();
        if left <= 0 {
            let message = "Job was active longer than specified deadline";
            return Some(End::failure("DeadlineExceeded", message));
        }
        self.look_again(Duration::from_millis(left.unsigned_abs()));
        None
    }

    /// With `OnFailure` containers restart in place, and their restarts count.
    fn restarts_reach(&self, limit: i32) -> bool {
        let pod_spec = self.spec.template.spec.as_ref();
        if pod_spec.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let restarts: i32 = self
            .pods
            .iter()
            .filter(|pod| matches!(meta::phase(pod), "Running" | "Pending"))
            .filter_map(|pod| pod.status.as_ref())
            .flat_map(|status| {
                let main = status.container_statuses.iter().flatten();
                main.chain(status.init_container_statuses.iter().flatten())
            })
            .map(|status| status.restart_count)
            .sum();
        if limit == 0 {
            restarts > 0
        } else {
            restarts >= limit
        }
    }

    fn end_by_indexes(&self) -> Option<End> {
        if !self.indexed {
            return None;
        }
        let (failed, done) = (self.failed_indexes.len(), self.completed.len());
        let all = self.spec.completions.unwrap_or(0);
        if self
            .spec
            .max_failed_indexes
            .is_some_and(|most| failed > most)
        {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(End::failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed + done >= all {
            return Some(End::failure("FailedIndexes", "Job has failed indexes"));
        }
        let policy = self.spec.success_policy.as_ref()?;
        let met = policy.rules.iter().position(|rule| {
            let listed = rule.succeeded_indexes.as_ref();
            let wanted = listed.map(|listed| Indexes::parse(listed, all));
            let among = |index: &&i32| wanted.as_ref().is_none_or(|w| w.0.contains(*index));
            let hits = self.completed.0.iter().filter(among).count();
            let needed = match (rule.succeeded_count, &wanted) {
                (Some(count), _) => usize::try_from(count).unwrap_or(usize::MAX),
                (None, Some(wanted)) => wanted.0.len(),
                (None, None) => usize::MAX,
            };
            hits >= needed
        })?;
        let message = format!("Matched rules at index {met}");
        Some(End::success("SuccessPolicy", message))
    }

    fn end_by_completions(&self) -> Option<End> {
        let idle = self.active().is_empty();
        let reached = match self.spec.completions {
            None => self.succeeded() > 0,
            Some(wanted) => self.succeeded() >= wanted,
        };
        let message = "Reached expected number of succeeded pods";
        (reached && idle).then(|| End::success("CompletionsReached", message))
    }
}
