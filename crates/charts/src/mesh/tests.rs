use super::*;

fn options(set: &[&str]) -> MeshOptions {
    MeshOptions {
        set: set.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    }
}

fn mesh(set: &[&str]) -> Manifest {
    render_mesh(&options(set)).unwrap_or_else(|e| panic!("{set:?}: {e}"))
}

fn find<'a>(manifest: &'a Manifest, kind: &str, name: &str) -> &'a Value {
    let mut all = manifest.components.iter().flat_map(|c| &c.objects);
    all.find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn yaml(component: &Component) -> String {
    let texts: Vec<String> = component.objects.iter().map(crate::mesh::to_yaml).collect();
    texts
        .join("---\n")
        .replace(env!("CARGO_PKG_VERSION"), "<version>")
}

#[test]
fn the_ambient_profile_in_full() {
    let manifest = mesh(&["profile=ambient"]);
    let kinds: Vec<ComponentKind> = manifest.components.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, ComponentKind::ALL);
    for component in &manifest.components[1..] {
        insta::assert_snapshot!(format!("ambient-{}", component.kind.key()), yaml(component));
    }
    let crds: Vec<&str> = manifest.components[0]
        .objects
        .iter()
        .map(|o| o["metadata"]["name"].as_str().expect("name"))
        .collect();
    assert!(
        crds.contains(&"authorizationpolicies.security.istio.io"),
        "{crds:?}"
    );
}

#[test]
fn profiles_switch_components() {
    for (profile, expected) in [("default", 2), ("minimal", 2), ("empty", 0), ("ambient", 4)] {
        assert_eq!(
            mesh(&[&format!("profile={profile}")]).components.len(),
            expected,
            "{profile}"
        );
    }
    assert_eq!(mesh(&[]).profile, "default");
    let chosen = mesh(&["profile=empty", "components.ztunnel.enabled=true"]);
    assert_eq!(chosen.components[0].kind, ComponentKind::Ztunnel);
}

#[test]
fn hub_and_tag_reach_every_image() {
    let image = |m: &Manifest, kind, name| {
        find(m, kind, name)["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    for (hub, tag) in [
        ("my-hub", "ambient"),
        ("localhost:5000", "1.29.0"),
        ("gcr.io/my-project", "x"),
    ] {
        let m = mesh(&[
            "profile=ambient",
            &format!("hub={hub}"),
            &format!("tag={tag}"),
        ]);
        assert_eq!(
            image(&m, "Deployment", "istiod"),
            format!("{hub}/pilot:{tag}")
        );
        assert_eq!(
            image(&m, "DaemonSet", "istio-cni-node"),
            format!("{hub}/install-cni:{tag}")
        );
        assert_eq!(
            image(&m, "DaemonSet", "ztunnel"),
            format!("{hub}/ztunnel:{tag}")
        );
    }
    let m = mesh(&[
        "profile=ambient",
        "values.ztunnel.image=docker.io/istio/ztunnel:1.24.0",
    ]);
    assert_eq!(
        image(&m, "DaemonSet", "ztunnel"),
        "docker.io/istio/ztunnel:1.24.0"
    );
    let m = mesh(&["profile=ambient", "tag=1", "components.cni.tag=2"]);
    assert_eq!(
        image(&m, "DaemonSet", "istio-cni-node"),
        "docker.io/istio/install-cni:2"
    );
    assert_eq!(
        image(&m, "DaemonSet", "ztunnel"),
        "docker.io/istio/ztunnel:1"
    );
}

#[test]
fn values_reach_their_chart() {
    let m = mesh(&[
        "profile=ambient",
        "values.cni.ambient.dnsCapture=false",
        "values.pilot.autoscaleEnabled=false",
        "values.pilot.replicaCount=2",
        "values.pilot.trustedZtunnelNamespace=ztunnel",
        "values.ztunnel.logLevel=debug",
        "meshConfig.discoverySelectors[0].matchLabels.istio-discovery=enabled",
        "components.ztunnel.namespace=ztunnel",
    ]);
    assert_eq!(
        find(&m, "ConfigMap", "istio-cni-config")["data"]["AMBIENT_DNS_CAPTURE"],
        "false"
    );
    assert_eq!(find(&m, "Deployment", "istiod")["spec"]["replicas"], 2);
    find(&m, "PodDisruptionBudget", "istiod");
    assert!(
        m.components[1]
            .objects
            .iter()
            .all(|o| o["kind"] != "HorizontalPodAutoscaler")
    );
    let env = |kind, name, key: &str| {
        let env = &find(&m, kind, name)["spec"]["template"]["spec"]["containers"][0]["env"];
        let all = env.as_array().expect("env");
        all.iter()
            .find(|e| e["name"] == key)
            .unwrap_or_else(|| panic!("{key}"))["value"]
            .clone()
    };
    assert_eq!(
        env("Deployment", "istiod", "CA_TRUSTED_NODE_ACCOUNTS"),
        "ztunnel/ztunnel"
    );
    assert_eq!(env("DaemonSet", "ztunnel", "RUST_LOG"), "debug");
    assert_eq!(
        env("DaemonSet", "ztunnel", "XDS_ADDRESS"),
        "https://istiod.istio-system.svc:15012"
    );
    assert_eq!(
        find(&m, "DaemonSet", "ztunnel")["metadata"]["namespace"],
        "ztunnel"
    );
    let config = find(&m, "ConfigMap", "istio")["data"]["mesh"]
        .as_str()
        .expect("mesh");
    assert!(config.contains("istio-discovery: enabled"), "{config}");
    assert!(config.contains("rootNamespace: istio-system"), "{config}");
}

#[test]
fn a_revision_is_part_of_names_and_labels() {
    let m = render_mesh(&MeshOptions {
        revision: Some("canary".into()),
        ..options(&["profile=ambient"])
    })
    .expect("mesh");
    let deployment = find(&m, "Deployment", "istiod-canary");
    assert_eq!(deployment["metadata"]["labels"]["istio.io/rev"], "canary");
    assert_eq!(
        deployment["spec"]["selector"]["matchLabels"]["istio.io/rev"],
        "canary"
    );
    find(&m, "ConfigMap", "istio-canary");
    find(&m, "ClusterRole", "istiod-clusterrole-canary-istio-system");
    let bad = MeshOptions {
        revision: Some("No_Good".into()),
        ..options(&[])
    };
    assert!(matches!(render_mesh(&bad), Err(MeshError::Revision(_))));
}

#[test]
fn platforms_change_the_paths_of_the_node() {
    let m = mesh(&["profile=ambient", "values.global.platform=k3s"]);
    let volumes =
        find(&m, "DaemonSet", "istio-cni-node")["spec"]["template"]["spec"]["volumes"].clone();
    assert!(
        volumes
            .to_string()
            .contains("/var/lib/rancher/k3s/data/cni"),
        "{volumes}"
    );
    find(
        &mesh(&["profile=ambient", "values.global.platform=gke"]),
        "ResourceQuota",
        "istio-cni-resource-quota",
    );
    for platform in ["aks", "eks", "kind", "k3d", "microk8s", "minikube"] {
        mesh(&[
            "profile=ambient",
            &format!("values.global.platform={platform}"),
        ]);
    }
    let error = render_mesh(&options(&[
        "profile=ambient",
        "values.global.platform=moon",
    ]));
    assert!(
        error
            .expect_err("unknown")
            .to_string()
            .contains("unknown platform moon")
    );
}

#[test]
fn what_has_no_effect_is_refused() {
    let fails = |set: &[&str]| {
        render_mesh(&options(set))
            .expect_err("must fail")
            .to_string()
    };
    assert!(fails(&["profile=ambiant"]).contains("unknown profile ambiant"));
    assert!(
        fails(&["profile=ambient", "values.profile=nonesuch"]).contains("unknown profile nonesuch")
    );
    assert!(fails(&["values.cni.ambient.enable=true"]).contains("values.cni.ambient.enable"));
    assert!(
        fails(&["value.x=1", "components.cnii.enabled=true"]).contains("components.cnii, value")
    );
    let forced = MeshOptions {
        force: true,
        ..options(&["values.nonesuch=1"])
    };
    assert_eq!(render_mesh(&forced).expect("forced").warnings.len(), 1);
    let file = MeshOptions {
        files: vec![json!({"kind": "Istio"})],
        ..Default::default()
    };
    assert!(
        render_mesh(&file)
            .expect_err("kind")
            .to_string()
            .contains("IstioOperator")
    );
}

#[test]
fn files_come_before_assignments() {
    let file = json!({
        "apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator",
        "spec": {"profile": "ambient", "tag": "file", "values": {"ztunnel": {"logLevel": "warn"}}}
    });
    let m = render_mesh(&MeshOptions {
        files: vec![file],
        ..options(&["tag=flag"])
    })
    .expect("mesh");
    let container = &find(&m, "DaemonSet", "ztunnel")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "docker.io/istio/ztunnel:flag");
    assert!(container["env"].to_string().contains("warn"));
}

#[test]
fn shared_helper_files_are_the_same_in_all_charts() {
    let charts = ["istiod", "cni", "ztunnel"].map(|n| Chart::load(&Source::Embedded, n).expect(n));
    for file in ["templates/_ambit.tpl", "templates/_profiles.tpl"] {
        let texts: Vec<&String> = charts
            .iter()
            .map(|c| {
                &c.templates
                    .iter()
                    .find(|(p, _)| p == file)
                    .unwrap_or_else(|| panic!("{file}"))
                    .1
            })
            .collect();
        assert!(
            texts.windows(2).all(|w| w[0] == w[1]),
            "{file} differs between charts"
        );
    }
}

#[test]
fn every_object_says_who_owns_it() {
    for component in mesh(&["profile=ambient"]).components {
        for object in component.objects {
            let labels = &object["metadata"]["labels"];
            assert_eq!(labels[COMPONENT_LABEL], component.kind.label(), "{object}");
            assert_eq!(labels[MANAGED_LABEL], "Reconcile");
            assert_eq!(labels[REVISION_LABEL], "default");
        }
    }
}

#[test]
fn waypoints_of_the_first_release_are_asked_for_by_one_value() {
    let plain = mesh(&["profile=ambient"]);
    let compat = mesh(&["profile=ambient", "compat.legacyWaypoint=true"]);
    assert!(!plain.legacy_waypoint && compat.legacy_waypoint);
    let istiod = |manifest: &Manifest| find(manifest, "Deployment", "istiod").to_string();
    assert!(!istiod(&plain).contains("COMPAT_LEGACY_WAYPOINT"));
    assert!(istiod(&compat).contains("COMPAT_LEGACY_WAYPOINT"));
}
