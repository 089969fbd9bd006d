//! What one stream wants of one type, and how far it has got: the protocol's rules without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ambit_model::Text;
use ambit_proto::discovery::DeltaDiscoveryRequest;

use super::log::{Changes, Cursor, ResourceLog, Wanted};

/// The subscription of a stream to a type.
#[derive(Debug)]
pub(super) struct Subscription {
    cursor: Cursor,
    wanted: Wanted,
    /// Nonce of the response that the client has not answered yet. While there is one, nothing
    /// more is sent: what changes meanwhile is sent together, in its latest state.
    in_flight: Option<String>,
    /// Names asked for while a response was in flight.
    asked: BTreeSet<Text>,
}

/// What a request means for its subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The last response was taken.
    Ack,
    /// The last response was taken, apart from some resources.
    Nack(String),
    /// It belongs to an older response.
    Stale,
    /// It only changes the subscription.
    Subscribe,
}

impl Subscription {
    /// Starts with the first request of the type, and gives what has to be sent; the response is
    /// due even if that is nothing.
    pub(super) fn start(
        log: &Arc<ResourceLog>,
        request: &DeltaDiscoveryRequest,
    ) -> (Self, Changes) {
        let wanted = first_wish(request);
        let cursor = log.cursor();
        let known: BTreeMap<String, String> = request
            .initial_resource_versions
            .iter()
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect();
        let mut changes = log.initial(&known, &wanted);
        if let Wanted::Keys(keys) = &wanted {
            // Names that were asked for and are not there count as removed, known or not.
            let unknown = keys
                .iter()
                .filter(|key| !known.contains_key(&***key))
                .cloned()
                .collect();
            changes.removed.extend(log.find(&unknown).removed);
        }
        (
            Self {
                cursor,
                wanted,
                in_flight: None,
                asked: BTreeSet::new(),
            },
            changes,
        )
    }

    /// Takes a further request of the type into account.
    pub(super) fn take(&mut self, request: &DeltaDiscoveryRequest) -> Answer {
        self.subscribe(request);
        if request.response_nonce.is_empty() {
            return Answer::Subscribe;
        }
        if self.in_flight.as_ref() != Some(&request.response_nonce) {
            return Answer::Stale;
        }
        self.in_flight = None;
        match &request.error_detail {
            Some(error) => Answer::Nack(error.message.clone()),
            None => Answer::Ack,
        }
    }

    /// What is to be sent now, if anything.
    pub(super) fn due(&mut self) -> Option<Changes> {
        if self.in_flight.is_some() {
            return None;
        }
        let log = self.cursor.log();
        let position = self.cursor.position();
        let mut changes = Changes {
            head: position,
            ..Changes::default()
        };
        if log.head() > position {
            changes = log.since(position, &self.wanted);
            self.cursor.move_to(changes.head);
        }
        let asked = std::mem::take(&mut self.asked);
        if !asked.is_empty() {
            let found = log.find(&asked);
            changes.resources.extend(found.resources);
            changes.removed.extend(found.removed);
        }
        let nothing = changes.resources.is_empty() && changes.removed.is_empty();
        (!nothing).then_some(changes)
    }

    /// A response with this nonce was sent, which brought the client to `head`.
    pub(super) fn sent(&mut self, nonce: String, head: u64) {
        self.in_flight = Some(nonce);
        self.cursor.move_to(head);
    }

    fn subscribe(&mut self, request: &DeltaDiscoveryRequest) {
        let Wanted::Keys(keys) = &mut self.wanted else {
            return;
        };
        for name in request
            .resource_names_subscribe
            .iter()
            .filter(|name| *name != "*")
        {
            let name = Text::from(name.as_str());
            keys.insert(name.clone());
            self.asked.insert(name);
        }
        for name in &request.resource_names_unsubscribe {
            keys.remove(name.as_str());
            self.asked.remove(name.as_str());
        }
    }
}

/// No names at all, or `*`, ask for everything. To subscribe to `*` and unsubscribe from it in one
/// request means to start with nothing and to ask for names later, apart from those known already.
fn first_wish(request: &DeltaDiscoveryRequest) -> Wanted {
    let has = |names: &[String], name: &str| names.iter().any(|n| n == name);
    let (subscribe, unsubscribe) = (
        &request.resource_names_subscribe,
        &request.resource_names_unsubscribe,
    );
    let nothing_said = subscribe.is_empty() && unsubscribe.is_empty();
    if nothing_said || (has(subscribe, "*") && !has(unsubscribe, "*")) {
        return Wanted::All;
    }
    let known = request.initial_resource_versions.keys();
    let names = subscribe.iter().chain(known).filter(|name| *name != "*");
    let names = names.filter(|name| !has(unsubscribe, name));
    Wanted::Keys(names.map(|name| Text::from(name.as_str())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::log::{Batch, Logs, Resource, TypeOptions};
    use ambit_proto::discovery::Status;
    use bytes::Bytes;

    fn log(names: &[&str]) -> Arc<ResourceLog> {
        let logs = Logs::new(&[TypeOptions {
            type_url: "type",
            versioned: true,
        }]);
        let log = logs.get("type").unwrap().clone();
        publish(&log, names, "1");
        log
    }

    fn publish(log: &ResourceLog, names: &[&str], body: &str) {
        let resource = |name: &&str| Resource {
            name: (*name).into(),
            aliases: Vec::new(),
            groups: Vec::new(),
            body: Bytes::from(body.to_owned()),
        };
        let set = names.iter().map(resource).collect();
        log.publish(Batch {
            set,
            remove: Vec::new(),
        });
    }

    fn request(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        DeltaDiscoveryRequest {
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            ..Default::default()
        }
    }

    fn answer(nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
        let status = |message: &str| Status {
            message: message.to_owned(),
            ..Default::default()
        };
        DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            error_detail: error.map(status),
            ..Default::default()
        }
    }

    #[test]
    fn changes_wait_for_the_answer_and_then_go_together() {
        let log = log(&["a"]);
        let (mut subscription, first) = Subscription::start(&log, &request(&[], &[]));
        assert_eq!(first.resources.len(), 1);
        subscription.sent("1".to_owned(), first.head);
        publish(&log, &["a", "b"], "2");
        publish(&log, &["a", "b"], "3");
        assert!(subscription.due().is_none());
        assert_eq!(subscription.take(&answer("0", None)), Answer::Stale);
        assert!(subscription.due().is_none());
        assert_eq!(subscription.take(&answer("1", None)), Answer::Ack);
        let next = subscription.due().unwrap();
        assert_eq!(next.resources.len(), 2);
        subscription.sent("2".to_owned(), next.head);
        let nack = subscription.take(&answer("2", Some("a: bad")));
        assert_eq!(nack, Answer::Nack("a: bad".to_owned()));
        assert!(subscription.due().is_none(), "a refusal is not answered");
        publish(&log, &["a"], "4");
        assert!(subscription.due().is_some(), "but later changes are sent");
    }

    #[test]
    fn an_empty_log_is_answered_too() {
        let (_, first) = Subscription::start(&log(&[]), &request(&[], &[]));
        assert!(first.resources.is_empty() && first.removed.is_empty());
    }

    #[test]
    fn on_demand_starts_with_nothing() {
        let log = log(&["a", "b"]);
        let (mut subscription, first) = Subscription::start(&log, &request(&["*"], &["*"]));
        assert!(first.resources.is_empty());
        subscription.sent("1".to_owned(), first.head);
        assert_eq!(
            subscription.take(&request(&["a", "x"], &[])),
            Answer::Subscribe
        );
        assert!(subscription.due().is_none());
        subscription.take(&answer("1", None));
        let found = subscription.due().unwrap();
        assert_eq!(
            (found.resources.len(), found.removed),
            (1, vec!["x".to_owned()])
        );
        subscription.sent("2".to_owned(), found.head);
        subscription.take(&answer("2", None));
        publish(&log, &["b"], "2");
        assert!(subscription.due().is_none(), "nobody asked for b");
        publish(&log, &["x"], "1");
        assert_eq!(subscription.due().unwrap().resources.len(), 1);
    }

    #[test]
    fn on_demand_goes_on_with_what_the_client_knows() {
        let log = log(&["a", "b"]);
        let mut first = request(&["*"], &["*"]);
        first.initial_resource_versions = [
            ("a".to_owned(), String::new()),
            ("gone".to_owned(), "1".to_owned()),
        ]
        .into();
        let (_, changes) = Subscription::start(&log, &first);
        assert_eq!(
            (changes.resources.len(), changes.removed),
            (1, vec!["gone".to_owned()])
        );
    }
}
