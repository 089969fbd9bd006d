//! Who is who in a cluster: keys and kubeconfigs of its parts, made once.

use std::path::PathBuf;

use ambit_apiserver::kubeconfig;
use ambit_apiserver::pki::{ClusterPki, KeyCert};

use crate::error::{LocalError, Result};
use crate::state::{Cluster, Folder, write_private};
use crate::system::POLICIES;

/// Makes the cluster's keys, the administrator's kubeconfig for the host, and
/// those of the parts inside.
pub(crate) fn create(folder: &Folder, cluster: &Cluster) -> Result<()> {
    let keys = load(folder, cluster)?;
    let admin = keys.admin().map_err(failed)?;
    let text = with(&keys, &cluster.context(), &cluster.url(), &admin);
    write_private(&folder.kubeconfig(), text.as_bytes())?;
    let inside = format!("https://{}", cluster.inner_api());
    let controllers = keys
        .issue_client("system:kube-controller-manager", Some("system:masters"))
        .map_err(failed)?;
    let proxy = keys
        .issue_client("system:kube-proxy", None)
        .map_err(failed)?;
    let policies = keys.issue_client(POLICIES, None).map_err(failed)?;
    let mut files = vec![
        ("controllers".to_owned(), controllers),
        ("proxy".to_owned(), proxy),
        ("policies".to_owned(), policies),
    ];
    for node in &cluster.nodes {
        files.push((
            node.name.clone(),
            keys.node_client(&node.name).map_err(failed)?,
        ));
    }
    for (name, key) in files {
        let text = with(&keys, &name, &inside, &key);
        write_private(&path(folder, &name), text.as_bytes())?;
    }
    Ok(())
}

/// The cluster's keys.
pub(crate) fn load(folder: &Folder, cluster: &Cluster) -> Result<ClusterPki> {
    let mut names = vec![
        cluster.api.ip().to_string(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        "localhost".to_owned(),
    ];
    let inside = cluster.routers().into_iter();
    names.extend(
        inside
            .chain(cluster.service_addresses(1))
            .map(|address| address.to_string()),
    );
    ClusterPki::load_or_generate(&folder.keys(), names).map_err(failed)
}

/// The kubeconfig of one part.
pub(crate) fn path(folder: &Folder, part: &str) -> PathBuf {
    folder.keys().join(format!("{part}.kubeconfig"))
}

fn with(keys: &ClusterPki, name: &str, url: &str, key: &KeyCert) -> String {
    kubeconfig::with_certificate(name, url, keys.ca_pem(), key)
}

fn failed(error: impl std::fmt::Display) -> LocalError {
    LocalError::Part {
        part: "the cluster's keys".to_owned(),
        reason: error.to_string(),
    }
}
