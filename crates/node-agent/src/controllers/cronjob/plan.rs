//! What a cron job does now, decided as pure values.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;

use super::schedule::Schedule;
use crate::controllers::job::finished_at;
use crate::controllers::meta;

/// Annotation of a job: the time for which it was made.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than that are worth a warning.
const MANY: usize = 100;

/// An event about the cron job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What to do: delete, create, then write the status.
#[derive(Debug, Default)]
pub(crate) struct Plan<'a> {
    pub(crate) delete: Vec<&'a Job>,
    pub(crate) create: Option<Job>,
    pub(crate) status: CronJobStatus,
    pub(crate) reports: Vec<Report>,
    pub(crate) recheck: Option<Duration>,
}

impl Plan<'_> {
    fn report(&mut self, warning: bool, reason: &'static str, message: String) {
        self.reports.push(Report {
            warning,
            reason,
            message,
        });
    }
}

/// Decides. `jobs` are those that the cron job controls.
pub(crate) fn plan<'a>(cron: &CronJob, jobs: &'a [Arc<Job>], now: Timestamp) -> Plan<'a> {
    let mut plan = Plan {
        status: cron.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    follow_jobs(&mut plan, jobs);
    clean_up(cron, &mut plan, jobs);
    let spec = cron.spec.clone().unwrap_or_default();
    if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
        let zone = match spec.time_zone.as_deref() {
            None => Ok(TimeZone::UTC),
            Some(name) => TimeZone::get(name).map_err(|_| name),
        };
        match (Schedule::parse(&spec.schedule), zone) {
            (Ok(schedule), Ok(zone)) => run_if_due(cron, &schedule, &zone, jobs, now, &mut plan),
            (Err(error), _) => {
                let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
                plan.report(true, "UnparseableCronJobSchedule", message);
            }
            (_, Err(name)) => {
                let message = format!("invalid timeZone: {name:?}");
                plan.report(true, "UnknownTimeZone", message);
            }
        }
    }
    if plan.status.active.as_ref().is_some_and(Vec::is_empty) {
        plan.status.active = None;
    }
    plan
}

/// Notices jobs that ended, and that are gone.
fn follow_jobs(plan: &mut Plan<'_>, jobs: &[Arc<Job>]) {
    let listed = plan.status.active.take().unwrap_or_default();
    let mut active = Vec::new();
    for reference in listed {
        let name = reference.name.clone().unwrap_or_default();
        let job = jobs.iter().find(|job| job.metadata.uid == reference.uid);
        match job.map(|job| end_of(job)) {
            Some(None) => active.push(reference),
            Some(Some(end)) => {
                let message = format!("Saw completed job: {name}, condition: {end}");
                plan.report(false, "SawCompletedJob", message);
            }
            None => {
                let message = format!("Active job went missing: {name}");
                plan.report(false, "MissingJob", message);
            }
        }
    }
    for job in jobs {
        let listed = active.iter().any(|known| known.uid == job.metadata.uid);
        match end_of(job) {
            None if !listed => active.push(reference(job)),
            Some("Complete") => {
                let end = job
                    .status
                    .as_ref()
                    .and_then(|status| status.completion_time.clone());
                let last = &mut plan.status.last_successful_time;
                if end.as_ref().map(|t| t.0) > last.as_ref().map(|t| t.0) {
                    *last = end;
                }
            }
            _ => {}
        }
    }
    plan.status.active = Some(active);
}

/// The condition with which a job ended.
fn end_of(job: &Job) -> Option<&'static str> {
    finished_at(job)?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let complete = conditions
        .iter()
        .any(|c| c.type_ == "Complete" && c.status == "True");
    Some(if complete { "Complete" } else { "Failed" })
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Ended jobs beyond the history limits, oldest first.
fn clean_up<'a>(cron: &CronJob, plan: &mut Plan<'a>, jobs: &'a [Arc<Job>]) {
    let spec = cron.spec.clone().unwrap_or_default();
    for (end, limit) in [
        ("Complete", spec.successful_jobs_history_limit),
        ("Failed", spec.failed_jobs_history_limit),
    ] {
        let Some(Ok(limit)) = limit.map(usize::try_from) else {
            continue;
        };
        let mut ended: Vec<&Job> = jobs
            .iter()
            .map(|job| &**job)
            .filter(|job| job.metadata.deletion_timestamp.is_none() && end_of(job) == Some(end))
            .collect();
        ended.sort_by_key(|job| {
            let start = job
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref());
            (start.map(|time| time.0), job.metadata.name.clone())
        });
        ended.truncate(ended.len().saturating_sub(limit));
        plan.delete.extend(ended);
    }
}

fn run_if_due<'a>(
    cron: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    jobs: &'a [Arc<Job>],
    now: Timestamp,
    plan: &mut Plan<'a>,
) {
    let spec = cron.spec.clone().unwrap_or_default();
    if let Some(next) = schedule.next(now, zone) {
        let wait = next.as_millisecond() - now.as_millisecond();
        plan.recheck = Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0)));
    }
    let created = cron.metadata.creation_timestamp.as_ref();
    let last = plan.status.last_schedule_time.as_ref().or(created);
    let mut from = last.map_or(now, |time| time.0);
    let deadline = spec.starting_deadline_seconds;
    if let Some(oldest) = deadline.and_then(|d| Timestamp::from_second(now.as_second() - d).ok()) {
        from = from.max(oldest);
    }
    let (due, missed) = schedule.last(from, now, zone, MANY);
    let Some(due) = due else { return };
    if missed >= MANY && deadline.is_none() {
        let message = format!(
            "too many missed start times: {missed}. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        );
        plan.report(true, "TooManyMissedTimes", message);
    }
    let job = new_job(cron, due, zone);
    if jobs
        .iter()
        .any(|known| known.metadata.name == job.metadata.name)
    {
        plan.status.last_schedule_time = Some(Time(due));
        return;
    }
    let running: Vec<&Job> = jobs
        .iter()
        .map(|job| &**job)
        .filter(|job| end_of(job).is_none())
        .collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.report(false, "JobAlreadyActive", message.to_owned());
            return;
        }
        Some("Replace") => plan.delete.extend(running),
        _ => {}
    }
    plan.status.last_schedule_time = Some(Time(due));
    plan.create = Some(job);
}

/// The job for a time; its name makes sure that there is only one.
fn new_job(cron: &CronJob, due: Timestamp, zone: &TimeZone) -> Job {
    let template = cron
        .spec
        .as_ref()
        .map(|spec| spec.job_template.clone())
        .unwrap_or_default();
    let given = template.metadata.unwrap_or_default();
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    let at = due.to_zoned(zone.clone());
    let mut annotations = given.annotations.unwrap_or_default();
    let text = at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    annotations.insert(SCHEDULED_AT.to_owned(), text.replace("+00:00", "Z"));
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", due.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T00:10:20Z";

    fn cron(more: Value) -> CronJob {
        let mut spec = json!({"schedule": "*/5 * * * *", "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1, "jobTemplate": {"spec": {"template": {}}}});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let cron = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u",
            "creationTimestamp": "2026-01-01T00:01:00Z"}, "spec": spec});
        serde_json::from_value(cron).unwrap()
    }

    fn job(name: &str, end: Option<&str>, start: &str) -> Arc<Job> {
        let conditions: Vec<Value> = end
            .map(|end| json!({"type": end, "status": "True", "lastTransitionTime": NOW}))
            .into_iter()
            .collect();
        let job = json!({"metadata": {"name": name, "uid": name},
            "status": {"startTime": start, "completionTime": start, "conditions": conditions}});
        Arc::new(serde_json::from_value(job).unwrap())
    }

    fn decide(
        cron: &CronJob,
        jobs: &[Arc<Job>],
    ) -> (Option<String>, Vec<String>, Vec<&'static str>) {
        let plan = plan(cron, jobs, NOW.parse().unwrap());
        (
            plan.create.and_then(|job| job.metadata.name),
            plan.delete
                .iter()
                .filter_map(|job| job.metadata.name.clone())
                .collect(),
            plan.reports.iter().map(|report| report.reason).collect(),
        )
    }

    /// Minutes since the epoch of 00:10.
    const DUE: &str = "c-29453770";

    #[test]
    fn the_latest_due_time_runs_once() {
        let (create, _, _) = decide(&cron(json!({})), &[]);
        assert_eq!(create.as_deref(), Some(DUE));
        let running = job(DUE, None, NOW);
        assert_eq!(decide(&cron(json!({})), &[running]).0, None);
        let mut ran = cron(json!({}));
        ran.status =
            serde_json::from_value(json!({"lastScheduleTime": "2026-01-01T00:10:00Z"})).unwrap();
        let plan = plan(&ran, &[], NOW.parse().unwrap());
        assert!(plan.create.is_none());
        assert_eq!(plan.recheck, Some(Duration::from_secs(280)));
    }

    #[test]
    fn suspended_late_and_wrong_ones_do_not_run() {
        assert_eq!(decide(&cron(json!({"suspend": true})), &[]).0, None);
        assert_eq!(
            decide(&cron(json!({"startingDeadlineSeconds": 15})), &[]).0,
            None
        );
        let (create, _, reports) = decide(&cron(json!({"schedule": "soon"})), &[]);
        assert_eq!(
            (create, reports),
            (None, vec!["UnparseableCronJobSchedule"])
        );
        let (create, _, reports) = decide(&cron(json!({"timeZone": "Mars/Olympus"})), &[]);
        assert_eq!((create, reports), (None, vec!["UnknownTimeZone"]));
    }

    #[test]
    fn policies_about_an_earlier_run() {
        let earlier = [job("earlier", None, "2026-01-01T00:05:00Z")];
        let of = |policy: &str| decide(&cron(json!({"concurrencyPolicy": policy})), &earlier);
        assert_eq!(of("Allow").0.as_deref(), Some(DUE));
        assert_eq!(of("Forbid"), (None, vec![], vec!["JobAlreadyActive"]));
        assert_eq!(
            of("Replace"),
            (Some(DUE.into()), vec!["earlier".into()], vec![])
        );
    }

    #[test]
    fn history_is_limited_and_ends_are_noticed() {
        let mut cron = cron(json!({"suspend": true}));
        cron.status = serde_json::from_value(
            json!({"active": [{"name": "b", "uid": "b"}, {"name": "x", "uid": "x"}]}),
        )
        .unwrap();
        let jobs = [
            job("a", Some("Complete"), "2026-01-01T00:00:00Z"),
            job("b", Some("Complete"), "2026-01-01T00:05:00Z"),
            job("f", Some("Failed"), "2026-01-01T00:04:00Z"),
            job("r", None, "2026-01-01T00:06:00Z"),
        ];
        let plan = plan(&cron, &jobs, NOW.parse().unwrap());
        let deleted: Vec<_> = plan
            .delete
            .iter()
            .filter_map(|job| job.metadata.name.as_deref())
            .collect();
        assert_eq!(deleted, ["a"]);
        let reasons: Vec<_> = plan.reports.iter().map(|report| report.reason).collect();
        assert_eq!(reasons, ["SawCompletedJob", "MissingJob"]);
        let active: Vec<_> = plan
            .status
            .active
            .unwrap()
            .into_iter()
            .filter_map(|job| job.name)
            .collect();
        assert_eq!(active, ["r"]);
        assert_eq!(
            plan.status.last_successful_time.unwrap().0,
            "2026-01-01T00:05:00Z".parse().unwrap()
        );
    }
}
