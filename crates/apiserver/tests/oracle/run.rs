//! Running one case: its requests in order, and what came back.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::{
    case::{Case, Step, Until},
    events::Events,
    normalize::{Names, sorted},
    target::{Answer, Request, Target},
    upstream,
    variables::Variables,
};

/// How long a condition may take: the garbage collector of the real cluster looks for new kinds
/// every 30 seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// A case on its way.
struct Run<'a> {
    target: &'a Target,
    variables: Variables,
    names: Names,
    watches: HashMap<String, Events>,
}

/// Runs a case in a new namespace. Returns the answers, normalised, one a request.
///
/// # Errors
/// When it cannot be prepared, or when an answer lacks what later steps need.
pub async fn case(target: &Target, namespace: &str, case: &Case) -> anyhow::Result<Vec<Value>> {
    new_namespace(target, namespace).await?;
    let mut run = Run {
        target,
        variables: Variables::of_case(namespace),
        names: Names::new(namespace),
        watches: HashMap::new(),
    };
    for step in &case.given {
        if let Some(folder) = &step.definitions {
            upstream::install(target, folder).await;
            continue;
        }
        for (name, step) in step.expand() {
            let answer = run.ask(&step).await?;
            let well = answer.code < 300 || step.until.is_some();
            ensure!(well, "{name}: {} {}", answer.code, answer.body);
        }
    }
    let mut answers = Vec::new();
    let mut times: HashMap<String, usize> = HashMap::new();
    for step in &case.steps {
        for (mut name, step) in step.expand() {
            let time = times.entry(name.clone()).or_default();
            *time += 1;
            if *time > 1 {
                name = format!("{name} ({time})");
            }
            answers.push(run.step(&name, &step).await?);
        }
    }
    Ok(answers)
}

/// A namespace in which pods can be made, as soon as it has its service account.
async fn new_namespace(target: &Target, name: &str) -> anyhow::Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let answer = target
        .send(&Request::post("/api/v1/namespaces", &body))
        .await;
    ensure!(answer.code == 201, "namespace {name}: {}", answer.body);
    let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    let end = Instant::now() + PATIENCE;
    while target.send(&Request::get(&path)).await.code != 200 {
        ensure!(Instant::now() < end, "{name} gets no service account");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

impl Run<'_> {
    /// A step and what is recorded of its answer.
    async fn step(&mut self, name: &str, step: &Step) -> anyhow::Result<Value> {
        if let Some(watch) = &step.events {
            let events = self.watches.get_mut(watch);
            let events = events.with_context(|| format!("there is no watch {watch}"))?;
            let events = events.take(step.count).await;
            let events: Vec<Value> = events.iter().map(|e| shown(step, e)).collect();
            let events = self.names.value(&Value::Array(events));
            return Ok(json!({"step": name, "events": events}));
        }
        if let Some(watch) = &step.watch {
            let response = self.target.open(&self.request(step)).await;
            let code = response.status().as_u16();
            let events = Events::read(response.into_body());
            self.watches.insert(watch.clone(), events);
            return Ok(json!({"step": name, "code": code}));
        }
        let answer = self.ask(step).await?;
        Ok(self.recorded(name, step, &answer))
    }

    fn recorded(&mut self, name: &str, step: &Step, answer: &Answer) -> Value {
        let mut recorded = Map::new();
        recorded.insert("step".into(), name.into());
        recorded.insert("code".into(), answer.code.into());
        if answer.content_type != "application/json" {
            recorded.insert("type".into(), answer.content_type.as_str().into());
        }
        if !answer.warnings.is_empty() {
            let warnings: Value = answer.warnings.iter().map(|w| self.names.text(w)).collect();
            recorded.insert("warnings".into(), warnings);
        }
        let body = match answer.code {
            200..300 => shown(step, &answer.body),
            _ => answer.body.clone(),
        };
        if !body.is_null() {
            recorded.insert("body".into(), self.names.value(&body));
        }
        Value::Object(recorded)
    }

    /// Sends, again and again if the step says so, and remembers what it says.
    async fn ask(&mut self, step: &Step) -> anyhow::Result<Answer> {
        let request = self.request(step);
        let end = Instant::now() + PATIENCE;
        let answer = loop {
            let answer = self.target.send(&request).await;
            match &step.until {
                Some(until) if !holds(until, &answer) && Instant::now() < end => {
                    tokio::time::sleep(PAUSE).await;
                }
                _ => break answer,
            }
        };
        for (name, pointer) in &step.save {
            let value = answer.body.pointer(pointer);
            let value =
                value.with_context(|| format!("nothing at {pointer} of {}", answer.body))?;
            match value {
                Value::String(text) => self.variables.set(name, text),
                other => self.variables.set(name, &other.to_string()),
            }
        }
        Ok(answer)
    }

    fn request(&self, step: &Step) -> Request {
        let filled = self.variables.fill(&step.request);
        let (method, path) = filled.split_once(' ').expect("a method and a path");
        let body = match (&step.body, &step.text) {
            (Some(value), _) => self.variables.fill_value(value).to_string().into_bytes(),
            (None, Some(text)) => self.variables.fill(text).into_bytes(),
            (None, None) => Vec::new(),
        };
        let mut request = Request::new(method, path, body);
        if !request.body.is_empty() {
            let content_type = step.content_type().to_owned();
            request.headers.push(("content-type".into(), content_type));
        }
        for (name, value) in &step.headers {
            let pair = (name.clone(), self.variables.fill(value));
            request.headers.push(pair);
        }
        request.token = step.token.as_ref().map(|t| self.variables.fill(t));
        request
    }
}

fn holds(until: &Until, answer: &Answer) -> bool {
    let code = until.code.is_none_or(|code| code == answer.code);
    let value = until.at.as_ref().is_none_or(|at| {
        let found = answer.body.pointer(at).unwrap_or(&Value::Null);
        *found == until.is
    });
    code && value
}

/// The parts of an answer that are compared.
fn shown(step: &Step, body: &Value) -> Value {
    match &step.show {
        None => sorted(body.clone()),
        Some(pointers) if pointers.is_empty() => Value::Null,
        Some(pointers) => {
            let part = |at: &String| {
                let found = body.pointer(at).cloned().unwrap_or_default();
                // Under the last key's own name, by which it is normalised.
                let key = at.rsplit('/').next().unwrap_or_default();
                (at.clone(), json!({ key: found }))
            };
            pointers.iter().map(part).collect()
        }
    }
}
