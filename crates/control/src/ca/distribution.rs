//! The root in every namespace: a ConfigMap that pods mount, written by the leader and repaired when
//! somebody changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ambit_kube_api::{labels, names};
use ambit_model::Text;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use super::CurrentAuthority;

/// Namespaces of Kubernetes itself in which no pods run.
const IGNORED: [&str; 2] = ["kube-node-lease", "kube-public"];
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Distributes the root.
pub struct Distribution {
    /// To the API server.
    pub client: Client,
    /// Name of the ConfigMap.
    pub name: String,
    /// The root to distribute.
    pub authority: CurrentAuthority,
    /// Where to.
    pub namespaces: watch::Receiver<Vec<Text>>,
    /// Whether it is ours to write.
    pub leading: watch::Receiver<bool>,
}

/// What has to be done in a namespace.
#[derive(Clone, Debug, PartialEq)]
enum Write {
    Create,
    Replace(Box<ConfigMap>),
}

impl Distribution {
    /// Runs for ever.
    pub async fn run(mut self) {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let all: Api<ConfigMap> = Api::all(self.client.clone());
        let mut events = watcher(all, config).default_backoff().boxed();
        let mut have: BTreeMap<Text, ConfigMap> = BTreeMap::new();
        let mut listed = BTreeSet::new();
        let mut complete = false;
        let mut retry = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => complete |= follow(&mut have, &mut listed, event),
                    Some(Err(error)) => tracing::warn!("watching the root's ConfigMaps failed, it is tried again: {error}"),
                    None => return,
                },
                changed = self.authority.changed() => if changed.is_err() { return },
                changed = self.namespaces.changed() => if changed.is_err() { return },
                changed = self.leading.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if retry => {}
            }
            if complete && *self.leading.borrow() {
                retry = !self.write_all(&mut have).await;
            }
        }
    }

    /// Writes where something is missing; false if that has to be tried again.
    async fn write_all(&mut self, have: &mut BTreeMap<Text, ConfigMap>) -> bool {
        let root = self.authority.borrow_and_update().root_pem().to_owned();
        let namespaces = self.namespaces.borrow_and_update().clone();
        let mut done = true;
        for namespace in namespaces.iter().filter(|ns| !IGNORED.contains(&&***ns)) {
            let Some(write) = needed(have.get(namespace), &root) else {
                continue;
            };
            match self.write(namespace, write, &root).await {
                Ok(written) => {
                    have.insert(namespace.clone(), written);
                }
                Err(error) if is_no_namespace(&error) => {}
                Err(error) => {
                    tracing::warn!(
                        "the root could not be written to {namespace}/{}: {error}",
                        self.name
                    );
                    done = false;
                }
            }
        }
        done
    }

    async fn write(&self, namespace: &str, write: Write, root: &str) -> kube::Result<ConfigMap> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        match write {
            Write::Create => {
                let made = api
                    .create(&PostParams::default(), &self.config_map(namespace, root))
                    .await;
                match made {
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        api.get(&self.name).await
                    }
                    other => other,
                }
            }
            Write::Replace(mut old) => {
                old.data
                    .get_or_insert_default()
                    .insert(names::ROOT_CERT_KEY.to_owned(), root.to_owned());
                old.metadata.managed_fields = None;
                api.replace(&self.name, &PostParams::default(), &old).await
            }
        }
    }

    fn config_map(&self, namespace: &str, root: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(namespace.to_owned()),
                labels: Some([(labels::CONFIG.to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some([(names::ROOT_CERT_KEY.to_owned(), root.to_owned())].into()),
            ..ConfigMap::default()
        }
    }
}

/// Keeps the record of what there is; true when the record is complete.
fn follow(
    have: &mut BTreeMap<Text, ConfigMap>,
    listed: &mut BTreeSet<Text>,
    event: Event<ConfigMap>,
) -> bool {
    let namespace = |object: &ConfigMap| Text::from(object.namespace().unwrap_or_default());
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            listed.insert(namespace(&object));
            have.insert(namespace(&object), object);
        }
        Event::InitDone => {
            have.retain(|ns, _| listed.contains(ns));
            return true;
        }
        Event::Apply(object) => {
            have.insert(namespace(&object), object);
        }
        Event::Delete(object) => {
            have.remove(&namespace(&object));
        }
    }
    false
}

fn needed(have: Option<&ConfigMap>, root: &str) -> Option<Write> {
    let Some(have) = have else {
        return Some(Write::Create);
    };
    let kept = have
        .data
        .as_ref()
        .and_then(|data| data.get(names::ROOT_CERT_KEY));
    (kept.map(String::as_str) != Some(root)).then(|| Write::Replace(Box::new(have.clone())))
}

/// The namespace is gone, or about to: nothing is missing there.
fn is_no_namespace(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            status.code == 404
                || (status.code == 403 && status.message.contains("being terminated"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_only_what_differs() {
        let map = |data: serde_json::Value| -> ConfigMap {
            serde_json::from_value(json!({"metadata": {"name": "r"}, "data": data})).unwrap()
        };
        assert_eq!(needed(None, "pem"), Some(Write::Create));
        assert_eq!(
            needed(
                Some(&map(json!({"root-cert.pem": "pem", "more": "x"}))),
                "pem"
            ),
            None
        );
        for other in [json!({}), json!({"root-cert.pem": "old"})] {
            assert!(matches!(
                needed(Some(&map(other)), "pem"),
                Some(Write::Replace(_))
            ));
        }
    }
}
