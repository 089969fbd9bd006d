//! The steps with a waypoint: requests are routed, refused, let in by a token, and tried again.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use super::Walk;
use super::steps::CURL;

/// Requests whose versions are counted. With so many, a share is off by 15 % less than once in ten
/// thousand walks.
const REQUESTS: usize = 200;
/// Shares of the versions of reviews, in percent.
const SHARES: [(&str, usize); 3] = [("v1", 50), ("v2", 30), ("v3", 20)];
const REVIEWS: &str = "http://reviews:9080/reviews/1";
/// The line that shows a status alone.
const STATUS: &str = "-o /dev/null -w %{http_code}\\n";

pub fn apply(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    // Policies on pods would see the waypoint as the caller.
    shell.show("kubectl delete peerauthentication,authorizationpolicy --all -n bookinfo")?;
    shell.show("ambit waypoint apply -n bookinfo --enroll-namespace --wait")?;
    shell.show("kubectl get gateway -n bookinfo")?;
    let services = shell.wait(20, || {
        let table = shell.quiet("ambit ztunnel-config services --service-namespace bookinfo")?;
        let bound = |line: &str| line.split_whitespace().nth(3) == Some("waypoint");
        let reviews = table.lines().find(|line| line.contains(" reviews "));
        ensure!(
            reviews.is_some_and(bound),
            "reviews has no waypoint: {table}"
        );
        Ok(table)
    })?;
    for line in services.lines() {
        println!("  {line}");
    }
    shell.wait(20, || answers(walk, REVIEWS, "200"))?;
    Ok("the traffic of the namespace's services goes through it".into())
}

const SPLIT: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: reviews
  namespace: bookinfo
spec:
  parentRefs:
  - group: ""
    kind: Service
    name: reviews
    port: 9080
  rules:
  - backendRefs:
    - name: reviews-v1
      port: 9080
      weight: 50
    - name: reviews-v2
      port: 9080
      weight: 30
    - name: reviews-v3
      port: 9080
      weight: 20
"#;

pub fn split(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    shell.show(
        "kubectl apply -n bookinfo -f samples/bookinfo/platform/kube/bookinfo-versions.yaml",
    )?;
    shell.apply(SPLIT)?;
    shell.show("kubectl wait -n bookinfo --for=jsonpath={.status.parents[0].conditions[1].status}=True httproute/reviews --timeout=20s")?;
    let ask = format!("{CURL} http://reviews:9080/reviews");
    println!("$ {ask}/{{1..{REQUESTS}}} | grep -o 'reviews-v.' | sort | uniq -c");
    let urls: Vec<String> = (1..=REQUESTS)
        .map(|i| format!("http://reviews:9080/reviews/{i}"))
        .collect();
    let answers = shell.quiet(&format!("{CURL} {}", urls.join(" ")))?;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, name) in answers.match_indices("reviews-v") {
        let end = at + name.len();
        let version = answers.get(end - 1..end + 1).context("a name is cut")?;
        *seen.entry(version).or_default() += 1;
    }
    let mut found = Vec::new();
    for (version, share) in SHARES {
        let count = seen.get(version).copied().unwrap_or_default();
        let percent = count * 100 / REQUESTS;
        println!("  {count:>5} reviews-{version}");
        ensure!(
            percent.abs_diff(share) <= 15 && count > 0,
            "reviews-{version} should get {share} %, it got {percent} %"
        );
        found.push(format!("{version} {percent} %"));
    }
    Ok(format!("asked for 50, 30 and 20 %: {}", found.join(", ")))
}

const ONLY_GET: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: reviews-read
  namespace: bookinfo
spec:
  targetRefs:
  - group: ""
    kind: Service
    name: reviews
  action: ALLOW
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/bookinfo/sa/bookinfo-productpage"]
    to:
    - operation:
        methods: ["GET"]
"#;

/// As productpage: its pod has the same tools.
const AS_PRODUCTPAGE: &str =
    "kubectl exec -n bookinfo deploy/productpage-v1 -- curl -s --max-time 10";

pub fn policy(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    shell.apply(ONLY_GET)?;
    shell.wait(20, || answers(walk, REVIEWS, "403"))?;
    let refused = shell.show(&format!("{CURL} {REVIEWS}"))?;
    ensure!(refused == "RBAC: access denied", "curl gets {refused:?}");
    let get = shell.show(&format!("{AS_PRODUCTPAGE} {STATUS} {REVIEWS}"))?;
    ensure!(get.trim() == "200", "productpage gets {get:?}");
    let post = shell.show(&format!("{AS_PRODUCTPAGE} {STATUS} -X POST {REVIEWS}"))?;
    ensure!(post.trim() == "403", "POST gets {post:?}");
    let status = "kubectl get authorizationpolicy reviews-read -n bookinfo -o 'jsonpath={.status.conditions[0].message}'";
    // It is written behind the change itself.
    shell.wait(20, || {
        let said = shell.quiet(status)?;
        ensure!(
            said.contains("bound to bookinfo/waypoint"),
            "its status says {said:?}"
        );
        Ok(())
    })?;
    shell.show(status)?;
    shell.show("kubectl delete authorizationpolicy reviews-read -n bookinfo")?;
    Ok("productpage may read, and nobody may do anything else".into())
}

pub fn token(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    let (keys, token) = (
        include_str!("../../../../samples/jwt/jwks.json"),
        include_str!("../../../../samples/jwt/demo.jwt").trim(),
    );
    let keys: String = keys.split_whitespace().collect();
    shell.apply(&format!(
        r#"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata:
  name: reviews
  namespace: bookinfo
spec:
  targetRefs:
  - group: ""
    kind: Service
    name: reviews
  jwtRules:
  - issuer: demo@ambit.mesh
    jwks: '{keys}'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: reviews-readers
  namespace: bookinfo
spec:
  targetRefs:
  - group: ""
    kind: Service
    name: reviews
  rules:
  - from:
    - source:
        requestPrincipals: ["demo@ambit.mesh/*"]
    when:
    - key: request.auth.claims[groups]
      values: ["readers"]
"#
    ))?;
    shell.wait(20, || answers(walk, REVIEWS, "403"))?;
    let without = shell.show(&format!("{CURL} {STATUS} {REVIEWS}"))?;
    ensure!(without.trim() == "403", "without a token: {without:?}");
    let with = |token: &str| {
        let header = format!("'Authorization: Bearer {token}'");
        shell.show_lines(&format!("{CURL} {STATUS} -H {header} {REVIEWS}"), |_| true)
    };
    let good = with(token)?;
    ensure!(good == ["200"], "with the token: {good:?}");
    let bad = with(&token.replacen(".e", ".f", 1))?;
    ensure!(bad == ["401"], "with another text in the token: {bad:?}");
    shell.show("kubectl delete authorizationpolicy/reviews-readers requestauthentication/reviews -n bookinfo")?;
    Ok("no token: 403; a bad one: 401; a good one: 200".into())
}

const RETRY: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: httpbin
  namespace: bookinfo
spec:
  parentRefs:
  - group: ""
    kind: Service
    name: httpbin
    port: 8000
  rules:
  - backendRefs:
    - name: httpbin
      port: 8000
    retry:
      attempts: 15
      codes: [500]
      backoff: 1ms
"#;

pub fn retries(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    shell.show("kubectl apply -n bookinfo -f samples/httpbin/httpbin.yaml")?;
    shell.show(
        "kubectl wait -n bookinfo --for=condition=Available deployment/httpbin --timeout=60s",
    )?;
    let url = "http://httpbin:8000/unstable";
    shell.wait(20, || answers(walk, "http://httpbin:8000/get", "200"))?;
    let count = |wanted: &str| -> anyhow::Result<usize> {
        println!("$ for i in $(seq 20); do {CURL} {STATUS} {url}; done | sort | uniq -c");
        let mut failed = 0;
        for _ in 0..20 {
            let answer = shell.quiet(&format!("{CURL} {STATUS} {url}"))?;
            failed += usize::from(answer.trim() != "200");
        }
        println!("  {:>5} 200\n  {failed:>5} 500   # {wanted}", 20 - failed);
        Ok(failed)
    };
    let before = count("every other request fails")?;
    ensure!(before > 0, "the backend should fail now and then");
    shell.apply(RETRY)?;
    shell.show("kubectl wait -n bookinfo --for=jsonpath={.status.parents[0].conditions[1].status}=True httproute/httpbin --timeout=20s")?;
    let after = shell.wait(20, || {
        let failed = count("with retries")?;
        ensure!(failed == 0, "{failed} requests failed");
        Ok(failed)
    })?;
    Ok(format!(
        "{before} of 20 requests failed, with retries {after}"
    ))
}

pub fn delete(walk: &Walk) -> anyhow::Result<String> {
    let shell = &walk.shell;
    shell.show("kubectl delete httproute --all -n bookinfo")?;
    shell.show("kubectl delete -n bookinfo -f samples/httpbin/httpbin.yaml")?;
    shell.show("kubectl label namespace bookinfo istio.io/use-waypoint-")?;
    shell.show("ambit waypoint delete -n bookinfo waypoint")?;
    shell.wait(40, || {
        let pods = shell.quiet(
            "kubectl get pods -n bookinfo -l gateway.networking.k8s.io/gateway-name --no-headers",
        )?;
        ensure!(
            pods.trim().is_empty(),
            "pods of the waypoint are left: {pods}"
        );
        Ok(())
    })?;
    shell.wait(20, || answers(walk, REVIEWS, "200"))?;
    shell.show(
        "kubectl delete -n bookinfo -f samples/bookinfo/platform/kube/bookinfo-versions.yaml",
    )?;
    Ok("its pods are gone, and requests go on".into())
}

/// The status of a request from curl's pod is this one.
fn answers(walk: &Walk, url: &str, wanted: &str) -> anyhow::Result<()> {
    let output = walk.shell.run(&format!("{CURL} {STATUS} {url}"))?;
    let status = output.stdout.trim();
    ensure!(status == wanted, "{url} answers {status:?}, not {wanted}");
    Ok(())
}
