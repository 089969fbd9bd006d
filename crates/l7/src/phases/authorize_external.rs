//! Phase `authorize-external`: the providers of `CUSTOM` policies are asked, before tokens are looked
//! at, as in Istio: what a provider writes into a request, later phases see.

use ambit_model::access::{self, Provider, ShownBody};
use bytes::Bytes;
use http::request::Parts;

use super::{Exchange, authorize};
use crate::body::Body;
use crate::external::{self, Answer, Changes, Header, Shown};
use crate::failure::Failure;
use crate::serve::Inbound;

/// A provider, and the policy that names it.
pub(crate) struct Question {
    provider: Option<Provider>,
    /// For the log.
    name: String,
}

/// What a request is after the phase.
pub(crate) struct Passed {
    pub(crate) body: Body,
    /// Headers for the client.
    pub(crate) to_client: Vec<Header>,
}

/// Asks about a request, and changes it as the answers say.
pub(crate) async fn authorize_external(
    inbound: &Inbound,
    parts: &mut Parts,
    body: Body,
    exchange: &mut Exchange,
) -> Result<Passed, Failure> {
    let questions = questions(inbound, Some((parts, exchange)));
    if questions.is_empty() {
        return Ok(Passed {
            body,
            to_client: Vec::new(),
        });
    }
    // In a box of its own: asking takes room that no other request needs.
    Box::pin(ask_all(inbound, questions, parts, body, exchange)).await
}

async fn ask_all(
    inbound: &Inbound,
    questions: Vec<Question>,
    parts: &mut Parts,
    mut body: Body,
    exchange: &mut Exchange,
) -> Result<Passed, Failure> {
    let mut to_client = Vec::new();
    for question in questions {
        let provider = question.provider()?;
        let (bytes, partial);
        (body, bytes, partial) = show(body, provider.body).await?;
        let shown = Shown {
            parts,
            exchange,
            body: bytes,
            partial,
        };
        let answer = external::ask(inbound, provider, Some(&shown)).await;
        if let Some(mut changes) = question.verdict(answer)? {
            to_client.append(&mut changes.to_client);
            change(parts, exchange, *changes);
        }
    }
    Ok(Passed { body, to_client })
}

/// Asks about a connection.
pub(crate) async fn authorize_connection(inbound: &Inbound) -> Result<(), Failure> {
    for question in questions(inbound, None) {
        let answer = external::ask(inbound, question.provider()?, None).await;
        question.verdict(answer)?;
    }
    Ok(())
}

/// Who is asked, each once.
fn questions(inbound: &Inbound, request: Option<(&Parts, &Exchange)>) -> Vec<Question> {
    let state = inbound.worker.shared.l7.load();
    let service = inbound.destination.service().map(|service| service.key());
    let policies = state.policies(service.as_ref());
    if !policies.clone().any(|policy| policy.asks()) {
        return Vec::new();
    }
    let mut names = Vec::new();
    let asked =
        authorize::with_request(inbound, request, |request| access::asked(policies, request));
    let each_once = asked.into_iter().filter(|asked| {
        let new = !names.contains(&asked.provider);
        names.push(asked.provider);
        new
    });
    each_once
        .map(|asked| Question {
            provider: asked.policy.provider.clone(),
            name: format!("provider {} of {}", asked.provider, asked.policy.key()),
        })
        .collect()
}

impl Question {
    /// Whom to ask. What cannot be asked does not pass.
    fn provider(&self) -> Result<&Provider, Failure> {
        let provider = self.provider.as_ref();
        provider.ok_or_else(|| Failure::Denied(format!("{} is not known", self.name)))
    }

    /// What an answer, or that there is none, comes to.
    fn verdict(&self, answer: Result<Answer, String>) -> Result<Option<Box<Changes>>, Failure> {
        match answer {
            Ok(Answer::Allow(changes)) => Ok(Some(changes)),
            Ok(Answer::Deny(denial)) => Err(Failure::Refused(denial)),
            Err(why) => {
                let provider = self.provider()?;
                let reason = format!("{}: {why}", self.name);
                if !provider.fail_open {
                    return Err(Failure::NoVerdict(provider.status_on_error, reason));
                }
                tracing::warn!("{reason}; the request passes, as failOpen says");
                Ok(None)
            }
        }
    }
}

/// What a provider is shown of a body, and the body as it goes on.
async fn show(body: Body, shown: Option<ShownBody>) -> Result<(Body, Bytes, bool), Failure> {
    let Some(shown) = shown else {
        return Ok((body, Bytes::new(), false));
    };
    let limit = shown.max_bytes as usize;
    let body = body.read_ahead(limit).await;
    let body = body.map_err(|_| Failure::ClientGone)?;
    let (mut bytes, more) = body.begun();
    let partial = more || bytes.len() > limit;
    if partial && !shown.partial {
        return Err(Failure::BodyTooLarge);
    }
    bytes.truncate(limit);
    Ok((body, bytes, partial))
}

fn change(parts: &mut Parts, exchange: &mut Exchange, changes: Changes) {
    for name in &changes.remove {
        parts.headers.remove(name);
    }
    for (name, value) in changes.set {
        parts.headers.insert(name, value);
    }
    for (name, value) in changes.append {
        parts.headers.append(name, value);
    }
    for name in &changes.query_remove {
        set_parameter(&mut exchange.query, name, None);
    }
    for (name, value) in &changes.query_set {
        set_parameter(&mut exchange.query, name, Some(value));
    }
}

/// Sets a parameter of a query, or takes it out.
fn set_parameter(query: &mut Option<String>, name: &str, value: Option<&str>) {
    let pairs = query.as_deref().unwrap_or_default().split('&');
    let others = pairs.filter(|pair| !pair.is_empty() && pair.split('=').next() != Some(name));
    let mut pairs: Vec<String> = others.map(str::to_owned).collect();
    pairs.extend(value.map(|value| format!("{name}={value}")));
    *query = (!pairs.is_empty()).then(|| pairs.join("&"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let set = |query: &str, value| {
            let mut query = Some(query.to_owned());
            set_parameter(&mut query, "a", value);
            query
        };
        assert_eq!(set("a=1&b=2&a=3", Some("4")).unwrap(), "b=2&a=4");
        assert_eq!(set("a=1&b=2", None).unwrap(), "b=2");
        assert_eq!(set("a", None), None);
        assert_eq!(set("", Some("4")).unwrap(), "a=4");
    }
}
