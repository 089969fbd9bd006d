//! Watches: objects of the API server become changes for the engine.
//!
//! A watch goes on for ever. When it has to list again, what is missing from the list counts as
//! deleted. An object that cannot be read never stops the others: it is reported, and its last good
//! version stays.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use ambit_translate::ObjectKey;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use ambit_kube_api::gateway_api::{
    BackendTLSPolicy, GRPCRoute, Gateway, GatewayClass, HTTPRoute, TCPRoute, TLSRoute,
};
use ambit_kube_api::status::{Condition, IstioStatus};
use ambit_kube_api::{
    AuthorizationPolicy, DestinationRule, PeerAuthentication, RequestAuthentication, Telemetry,
    labels, names,
};
use ambit_translate::authentications::AuthenticationFacts;
use ambit_translate::backend_tls::BackendTlsFacts;
use ambit_translate::overlays::ClassDefaults;
use ambit_translate::peer_authentication::PeerFacts;
use ambit_translate::policies::PolicyFacts;
use ambit_translate::routes::RouteFacts;
use ambit_translate::telemetry::TelemetryFacts;
use ambit_translate::traffic::TrafficFacts;
use ambit_translate::{
    ClassFacts, GatewayFacts, MeshConfig, NamespaceFacts, NodeFacts, PodFacts, ServiceFacts,
    SliceFacts, mesh_config,
};

use crate::engine::{Change, Kind, Observed};
use crate::metrics::Metrics;

/// Pause before a kind is looked for again that the API server does not have.
const MISSING_KIND_PAUSE: Duration = Duration::from_secs(5);

/// Where the mesh configuration is.
#[derive(Clone, Debug)]
pub struct MeshConfigMap {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Starts all watches. They end when the receiver of the changes is gone.
pub fn start(
    client: &Client,
    config_map: MeshConfigMap,
    changes: &mpsc::Sender<Change>,
    metrics: &Metrics,
) {
    let watch = |kind| Watch {
        kind,
        changes: changes.clone(),
        metrics: metrics.clone(),
        known: HashSet::new(),
    };
    let any = watcher::Config::default;
    tokio::spawn(watch(Kind::Namespace).run(Api::<Guard<Namespace>>::all(client.clone()), any()));
    tokio::spawn(watch(Kind::Node).run(Api::<Guard<Node>>::all(client.clone()), any()));
    tokio::spawn(watch(Kind::Pod).run(Api::<Guard<Pod>>::all(client.clone()), any()));
    tokio::spawn(watch(Kind::Service).run(Api::<Guard<Service>>::all(client.clone()), any()));
    tokio::spawn(
        watch(Kind::EndpointSlice).run(Api::<Guard<EndpointSlice>>::all(client.clone()), any()),
    );
    tokio::spawn(watch(Kind::AuthorizationPolicy).run(
        Api::<Guard<AuthorizationPolicy>>::all(client.clone()),
        any(),
    ));
    tokio::spawn(
        watch(Kind::PeerAuthentication)
            .run(Api::<Guard<PeerAuthentication>>::all(client.clone()), any()),
    );
    tokio::spawn(watch(Kind::RequestAuthentication).run(
        Api::<Guard<RequestAuthentication>>::all(client.clone()),
        any(),
    ));
    tokio::spawn(
        watch(Kind::DestinationRule).run(Api::<Guard<DestinationRule>>::all(client.clone()), any()),
    );
    tokio::spawn(watch(Kind::Telemetry).run(Api::<Guard<Telemetry>>::all(client.clone()), any()));
    tokio::spawn(
        watch(Kind::GatewayClass).run(Api::<Guard<GatewayClass>>::all(client.clone()), any()),
    );
    tokio::spawn(watch(Kind::Gateway).run(Api::<Guard<Gateway>>::all(client.clone()), any()));
    tokio::spawn(watch(Kind::HttpRoute).run(Api::<Guard<HTTPRoute>>::all(client.clone()), any()));
    tokio::spawn(watch(Kind::GrpcRoute).run(Api::<Guard<GRPCRoute>>::all(client.clone()), any()));
    tokio::spawn(watch(Kind::TcpRoute).run(Api::<Guard<TCPRoute>>::all(client.clone()), any()));
    tokio::spawn(watch(Kind::TlsRoute).run(Api::<Guard<TLSRoute>>::all(client.clone()), any()));
    tokio::spawn(
        watch(Kind::BackendTlsPolicy)
            .run(Api::<Guard<BackendTLSPolicy>>::all(client.clone()), any()),
    );
    let config_maps = Api::<Guard<ConfigMap>>::namespaced(client.clone(), &config_map.namespace);
    let one = any().fields(&format!("metadata.name={}", config_map.name));
    tokio::spawn(watch(Kind::MeshConfig).run(config_maps.clone(), one));
    let defaults = any().labels(labels::DEFAULTS_FOR_CLASS);
    tokio::spawn(watch(Kind::ClassDefaults).run(config_maps, defaults));
}

type Guard<K> = DeserializeGuard<K>;

/// An object as a change.
trait Watched: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    fn change(&self, kind: Kind, key: ObjectKey) -> Option<Change>;
    fn removed(kind: Kind, key: ObjectKey) -> Option<Change>;
}

impl Watched for Namespace {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Namespace(key.name, Some(NamespaceFacts::of(self))))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Namespace(key.name, None))
    }
}

impl Watched for Node {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Node(key.name, Some(NodeFacts::of(self))))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Node(key.name, None))
    }
}

impl Watched for Pod {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Pod(key, Some(PodFacts::of(self))))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Pod(key, None))
    }
}

impl Watched for Service {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let conditions = self.status.as_ref().and_then(|s| s.conditions.clone());
        let conditions = conditions.unwrap_or_default();
        Some(Change::Service(
            key,
            ServiceFacts::of(self).map(|facts| Observed {
                facts,
                status: conditions.into_iter().map(Condition::from).collect(),
            }),
        ))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Service(key, None))
    }
}

impl Watched for EndpointSlice {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Slice(key, SliceFacts::of(self)))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Slice(key, None))
    }
}

impl Watched for AuthorizationPolicy {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Policy(
            key,
            Some(observed(PolicyFacts::of(self), self.status.as_ref())),
        ))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Policy(key, None))
    }
}

impl Watched for PeerAuthentication {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Peer(
            key,
            Some(observed(PeerFacts::of(self), self.status.as_ref())),
        ))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Peer(key, None))
    }
}

impl Watched for ConfigMap {
    fn change(&self, kind: Kind, key: ObjectKey) -> Option<Change> {
        if kind == Kind::ClassDefaults {
            let defaults = class_defaults(self, key.clone());
            return Some(Change::ClassDefaults(key, defaults));
        }
        let text = self
            .data
            .as_ref()
            .and_then(|data| data.get(names::MESH_CONFIG_KEY));
        let (config, findings) = mesh_config::parse(text.map_or("", String::as_str));
        for finding in &findings {
            if config.is_some() {
                tracing::warn!("mesh configuration {key}: {finding}");
            } else {
                tracing::error!("mesh configuration {key}: {finding}");
            }
        }
        config.map(Change::MeshConfig)
    }
    fn removed(kind: Kind, key: ObjectKey) -> Option<Change> {
        match kind {
            Kind::ClassDefaults => Some(Change::ClassDefaults(key, None)),
            _ => Some(Change::MeshConfig(MeshConfig::default())),
        }
    }
}

fn class_defaults(map: &ConfigMap, key: ObjectKey) -> Option<ClassDefaults> {
    let labels = map.metadata.labels.as_ref()?;
    let created = map.metadata.creation_timestamp.as_ref();
    Some(ClassDefaults {
        key,
        class: labels.get(labels::DEFAULTS_FOR_CLASS)?.as_str().into(),
        created: created.map_or(0, |time| time.0.as_second()),
        data: map.data.clone().unwrap_or_default(),
    })
}

impl Watched for RequestAuthentication {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let facts = AuthenticationFacts::of(self);
        let observed = observed(facts, self.status.as_ref());
        Some(Change::Authentication(key, Some(observed)))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Authentication(key, None))
    }
}

impl Watched for DestinationRule {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Traffic(key, Some(Box::new(TrafficFacts::of(self)))))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Traffic(key, None))
    }
}

impl Watched for Telemetry {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Telemetry(
            key,
            Some(Box::new(TelemetryFacts::of(self))),
        ))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Telemetry(key, None))
    }
}

impl Watched for BackendTLSPolicy {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let observed = Observed {
            facts: BackendTlsFacts::of(self),
            status: self.status.clone().unwrap_or_default(),
        };
        Some(Change::BackendTls(key, Some(Box::new(observed))))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::BackendTls(key, None))
    }
}

impl Watched for GatewayClass {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let status = self.status.as_ref().map(|s| s.conditions.clone());
        let observed = Observed {
            facts: ClassFacts::of(self),
            status: status.unwrap_or_default(),
        };
        Some(Change::Class(key.name, Some(observed)))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Class(key.name, None))
    }
}

impl Watched for Gateway {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let observed = Observed {
            facts: GatewayFacts::of(self),
            status: self.status.clone().unwrap_or_default(),
        };
        Some(Change::Gateway(key, Some(observed)))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Gateway(key, None))
    }
}

impl Watched for HTTPRoute {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let observed = Observed {
            facts: RouteFacts::http(self),
            status: self.status.clone().unwrap_or_default(),
        };
        Some(Change::Route(Kind::HttpRoute, key, Some(observed)))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Route(Kind::HttpRoute, key, None))
    }
}

impl Watched for GRPCRoute {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let observed = Observed {
            facts: RouteFacts::grpc(self),
            status: self.status.clone().unwrap_or_default(),
        };
        Some(Change::Route(Kind::GrpcRoute, key, Some(observed)))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Route(Kind::GrpcRoute, key, None))
    }
}

impl Watched for TCPRoute {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let observed = Observed {
            facts: RouteFacts::tcp(self),
            status: self.status.clone().unwrap_or_default(),
        };
        Some(Change::Route(Kind::TcpRoute, key, Some(observed)))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Route(Kind::TcpRoute, key, None))
    }
}

impl Watched for TLSRoute {
    fn change(&self, _: Kind, key: ObjectKey) -> Option<Change> {
        let observed = Observed {
            facts: RouteFacts::tls(self),
            status: self.status.clone().unwrap_or_default(),
        };
        Some(Change::Route(Kind::TlsRoute, key, Some(observed)))
    }
    fn removed(_: Kind, key: ObjectKey) -> Option<Change> {
        Some(Change::Route(Kind::TlsRoute, key, None))
    }
}

fn observed<T>(facts: T, status: Option<&IstioStatus>) -> Observed<T> {
    Observed {
        facts,
        status: status.map(|s| s.conditions.clone()).unwrap_or_default(),
    }
}

/// One watch.
struct Watch {
    kind: Kind,
    changes: mpsc::Sender<Change>,
    metrics: Metrics,
    /// What the engine has been told of.
    known: HashSet<ObjectKey>,
}

/// The engine is gone: nobody listens any more.
struct Gone;

impl Watch {
    async fn run<K>(mut self, api: Api<Guard<K>>, config: watcher::Config)
    where
        K: Watched,
        Guard<K>: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send,
    {
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            let handled = match event {
                Ok(event) => self.event(event, &mut listed).await,
                Err(error) => self.failed(&error).await,
            };
            if handled.is_err() {
                return;
            }
        }
    }

    async fn event<K: Watched>(
        &mut self,
        event: Event<Guard<K>>,
        listed: &mut HashSet<ObjectKey>,
    ) -> Result<(), Gone> {
        match event {
            Event::Init => {
                listed.clear();
                Ok(())
            }
            Event::InitApply(object) => {
                listed.insert(ObjectKey::of(&object));
                self.changed(object).await
            }
            Event::InitDone => {
                let missing: Vec<_> = self.known.difference(listed).cloned().collect();
                for key in missing {
                    self.removed::<K>(key).await?;
                }
                listed.clear();
                self.send(Some(Change::Synced(self.kind))).await
            }
            Event::Apply(object) => self.changed(object).await,
            Event::Delete(object) => self.removed::<K>(ObjectKey::of(&object)).await,
        }
    }

    async fn changed<K: Watched>(&mut self, object: Guard<K>) -> Result<(), Gone> {
        self.metrics.event(self.kind, "update");
        let key = ObjectKey::of(&object);
        self.known.insert(key.clone());
        let change = match object.0 {
            Ok(object) => object.change(self.kind, key),
            Err(invalid) => {
                let error = invalid.error;
                tracing::warn!("{} {key} cannot be read: {error}", self.kind.name());
                Some(Change::Unreadable(self.kind, key, error))
            }
        };
        self.send(change).await
    }

    async fn removed<K: Watched>(&mut self, key: ObjectKey) -> Result<(), Gone> {
        self.metrics.event(self.kind, "delete");
        self.known.remove(&key);
        self.send(K::removed(self.kind, key)).await
    }

    async fn send(&self, change: Option<Change>) -> Result<(), Gone> {
        match change {
            Some(change) => self.changes.send(change).await.map_err(|_| Gone),
            None => Ok(()),
        }
    }

    /// A kind that the API server does not have counts as empty until it is there.
    async fn failed(&self, error: &watcher::Error) -> Result<(), Gone> {
        let kind = self.kind.name();
        if is_missing_kind(error) {
            tracing::warn!(
                "the API server does not have {kind}; install the CRDs of the chart base"
            );
            self.send(Some(Change::Synced(self.kind))).await?;
            tokio::time::sleep(MISSING_KIND_PAUSE).await;
        } else {
            tracing::warn!("watching {kind} failed, it is tried again: {error}");
        }
        Ok(())
    }
}

fn is_missing_kind(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}
