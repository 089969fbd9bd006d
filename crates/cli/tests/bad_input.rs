//! Bad input gets a clear error, and nothing crashes.

mod common;

use anyhow::{Result, ensure};
use common::{Cluster, eventually};

/// The command must fail and say why, in words that a user understands.
fn refused(output: &std::process::Output, word: &str) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it was accepted");
    ensure!(
        text.contains(word),
        "the error does not say {word:?}: {text}"
    );
    Ok(())
}

#[test]
fn each_kind_of_bad_input_is_refused_clearly() -> Result<()> {
    let cluster = Cluster::up("bad-input")?;
    refused(&cluster.try_apply("kind: [unclosed")?, "yaml")?;
    refused(
        &cluster.try_apply("apiVersion: v1\nkind: Unheard\nmetadata:\n  name: x\n")?,
        "Unheard",
    )?;
    let wrong_field = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\nspeck: {}\n";
    refused(&cluster.try_apply(wrong_field)?, "speck")?;
    let label = cluster.try_kubectl("label namespace missing istio.io/dataplane-mode=ambient")?;
    refused(&label, "not found")?;

    // A pod with an image that nobody knows says so, and says what is known.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: unknown\n  namespace: default\n\
               spec:\n  containers:\n  - name: a\n    image: example.com/nothing:1\n";
    cluster.apply(pod)?;
    eventually(20, || {
        let reason = "jsonpath={.status.containerStatuses[0].state.waiting}";
        let waiting = cluster.kubectl(&format!("get pod unknown -n default -o {reason}"))?;
        ensure!(
            waiting.contains("ErrImagePull") || waiting.contains("ImagePullBackOff"),
            "{waiting}"
        );
        ensure!(waiting.contains("catalogue"), "{waiting}");
        Ok(())
    })?;

    // A policy that cannot mean what it says is marked, with the reason.
    cluster.ambit("install --set profile=ambient -y")?;
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  \
                  name: wrong\n  namespace: default\nspec:\n  action: ALLOW\n  rules:\n  - from:\n    \
                  - source:\n        principals: [\"spiffe://cluster.local/ns/a/sa/b\"]\n";
    cluster.apply(policy)?;
    eventually(20, || {
        let conditions = "jsonpath={.status.conditions}";
        let status = cluster.kubectl(&format!(
            "get authorizationpolicy wrong -n default -o {conditions}"
        ))?;
        ensure!(
            status.contains("spiffe://"),
            "the status does not name the principal: {status}"
        );
        Ok(())
    })
}
