//! Install, change, prune and uninstall against an API server in this process. A task plays the
//! controllers: it reports workloads as ready.

use std::sync::Mutex;
use std::time::Duration;

use ambit_charts::{ComponentKind, MeshOptions, render_mesh};
use ambit_operator::{
    Event, InstallOptions, OperatorError, Scope, execute_removal, install, plan_removal,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

struct Cluster {
    _api: ambit_apiserver::Handle,
    _dir: tempfile::TempDir,
    client: Client,
}

async fn cluster() -> Cluster {
    let api = ambit_apiserver::Server::builder()
        .start()
        .await
        .expect("API server");
    let dir = tempfile::tempdir().expect("dir");
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.admin_kubeconfig().expect("kubeconfig")).expect("write");
    let options = ambit_kube_api::ClientOptions {
        kubeconfig: Some(kubeconfig),
        context: None,
    };
    let client = ambit_kube_api::client(&options).await.expect("client");
    Cluster {
        _api: api,
        _dir: dir,
        client,
    }
}

/// Reports every workload as ready, until it is dropped.
fn controllers(client: Client) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let deployments: Api<Deployment> = Api::all(client.clone());
            for d in deployments
                .list(&ListParams::default())
                .await
                .expect("list")
            {
                let api: Api<Deployment> =
                    Api::namespaced(client.clone(), &d.namespace().expect("namespace"));
                let status = json!({"status": {"observedGeneration": d.metadata.generation, "replicas": 1,
                    "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}});
                let _ = api
                    .patch_status(
                        &d.name_any(),
                        &PatchParams::default(),
                        &Patch::Merge(status),
                    )
                    .await;
            }
            let sets: Api<DaemonSet> = Api::all(client.clone());
            for s in sets.list(&ListParams::default()).await.expect("list") {
                let api: Api<DaemonSet> =
                    Api::namespaced(client.clone(), &s.namespace().expect("namespace"));
                let status = json!({"status": {"observedGeneration": s.metadata.generation,
                    "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberReady": 2,
                    "numberAvailable": 2, "updatedNumberScheduled": 2, "numberMisscheduled": 0}});
                let _ = api
                    .patch_status(
                        &s.name_any(),
                        &PatchParams::default(),
                        &Patch::Merge(status),
                    )
                    .await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

async fn run(client: &Client, set: &[&str]) -> Result<Vec<Event>, OperatorError> {
    let options = MeshOptions {
        set: set.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    };
    let manifest = render_mesh(&options).expect("manifest");
    let events = Mutex::new(Vec::new());
    let options = InstallOptions {
        readiness_timeout: Duration::from_secs(30),
        dry_run: false,
        ..Default::default()
    };
    install(client, &manifest, &options, &|e| {
        events.lock().expect("lock").push(e)
    })
    .await?;
    Ok(events.into_inner().expect("lock"))
}

/// What a change would change: the generation, with the specification for a readable failure.
async fn version_of(client: &Client, name: &str) -> String {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "istio-system");
    let set = sets.get(name).await.expect("set");
    let spec = serde_json::to_string_pretty(&set.spec).expect("JSON");
    format!(
        "{:?} {:?} {spec}",
        set.metadata.uid, set.metadata.generation
    )
}

#[tokio::test]
async fn installing_again_changes_nothing_and_another_value_only_what_differs() {
    let cluster = cluster().await;
    let client = &cluster.client;
    let controllers = controllers(client.clone());
    let events = run(client, &["profile=ambient"]).await.expect("install");
    let installed: Vec<ComponentKind> = events
        .iter()
        .filter_map(|e| match e {
            Event::Installed(kind) => Some(*kind),
            _ => None,
        })
        .collect();
    assert_eq!(installed.len(), 4);
    assert_eq!(installed[0], ComponentKind::Base);
    let place = |k| installed.iter().position(|i| *i == k);
    assert!(place(ComponentKind::Cni) < place(ComponentKind::Ztunnel));

    let before = (
        version_of(client, "ztunnel").await,
        version_of(client, "istio-cni-node").await,
    );
    run(client, &["profile=ambient"]).await.expect("again");
    assert_eq!(version_of(client, "ztunnel").await, before.0);
    run(
        client,
        &["profile=ambient", "values.ztunnel.logLevel=debug"],
    )
    .await
    .expect("change");
    assert_ne!(version_of(client, "ztunnel").await, before.0);
    assert_eq!(version_of(client, "istio-cni-node").await, before.1);

    let scalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), "istio-system");
    assert!(scalers.get_opt("istiod").await.expect("get").is_some());
    let events = run(
        client,
        &["profile=ambient", "values.pilot.autoscaleEnabled=false"],
    )
    .await
    .expect("prune");
    let pruned = Event::Pruned("HorizontalPodAutoscaler/istio-system/istiod".into());
    assert!(events.contains(&pruned), "{events:?}");
    assert!(scalers.get_opt("istiod").await.expect("get").is_none());
    controllers.abort();
}

#[tokio::test]
async fn uninstall_warns_removes_everything_and_can_be_repeated() {
    let cluster = cluster().await;
    let client = &cluster.client;
    let controllers = controllers(client.clone());
    run(client, &["profile=ambient"]).await.expect("install");
    let namespace: Namespace = serde_json::from_value(json!({
        "metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}
    }))
    .expect("namespace");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .expect("create");

    let one = plan_removal(client, &Scope::Revision("default".into()))
        .await
        .expect("plan");
    assert!(
        !one.objects()
            .iter()
            .any(|o| o.contains("CustomResourceDefinition"))
    );
    let none = plan_removal(client, &Scope::Revision("canary".into()))
        .await
        .expect("plan");
    assert!(none.is_empty());

    let all = plan_removal(client, &Scope::Purge).await.expect("plan");
    assert_eq!(all.enrolled, ["shop"]);
    assert_eq!(
        all.objects()[0],
        "apps/v1, Kind=DaemonSet/istio-cni-node.istio-system"
    );
    let removed = Mutex::new(Vec::new());
    let note = |o: &str| removed.lock().expect("lock").push(o.to_owned());
    execute_removal(client, &all, &note).await.expect("remove");
    assert_eq!(removed.into_inner().expect("lock"), all.objects());
    assert!(
        plan_removal(client, &Scope::Purge)
            .await
            .expect("plan")
            .is_empty()
    );
    execute_removal(client, &all, &|_| {})
        .await
        .expect("removing again");

    run(client, &["profile=ambient"])
        .await
        .expect("install after uninstall");
    controllers.abort();
}

#[tokio::test]
async fn what_does_not_become_ready_is_named_with_a_reason() {
    let cluster = cluster().await;
    let manifest = render_mesh(&MeshOptions {
        set: vec!["profile=ambient".into()],
        ..Default::default()
    })
    .expect("manifest");
    let options = InstallOptions {
        readiness_timeout: Duration::from_secs(1),
        dry_run: false,
        ..Default::default()
    };
    let error = install(&cluster.client, &manifest, &options, &|_| {})
        .await
        .expect_err("not ready");
    let text = error.to_string();
    assert!(text.starts_with("resources not ready after 1s: "), "{text}");
    assert!(
        text.contains("Deployment/istio-system/istiod (no pod was made"),
        "{text}"
    );
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cluster = cluster().await;
    let manifest = render_mesh(&MeshOptions {
        set: vec![
            "profile=empty".into(),
            "components.base.enabled=true".into(),
        ],
        ..Default::default()
    })
    .expect("manifest");
    let options = InstallOptions {
        dry_run: true,
        ..Default::default()
    };
    install(&cluster.client, &manifest, &options, &|_| {})
        .await
        .expect("dry run");
    assert!(
        plan_removal(&cluster.client, &Scope::Purge)
            .await
            .expect("plan")
            .is_empty()
    );
}
