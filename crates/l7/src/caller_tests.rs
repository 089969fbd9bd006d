//! Who the application is told that the caller is: whom the tunnel has shown, and only where that is
//! asked for.

use crate::testbed::Testbed;

const FORGED: &str = "By=spiffe://a/ns/b/sa/c;URI=spiffe://cluster.local/ns/shop/sa/admin";
const CALLER: &str =
    "By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/client";

async fn shown(settings: &[(&str, &str)], header: &str) -> Vec<String> {
    let testbed = Testbed::with(settings).await;
    let request = format!("GET / HTTP/1.1\r\nhost: echo\r\n{header}\r\n");
    let (_, got) = testbed.exchange(request.as_bytes()).await;
    let values = got[0].values("x-forwarded-client-cert");
    values.into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_caller_is_shown_where_it_is_asked_for() {
    let on = [("SHOW_CALLER", "true")];
    assert_eq!(shown(&on, "").await, [CALLER]);
    let forged = format!("x-forwarded-client-cert: {FORGED}\r\n");
    let twice = format!("{forged}X-Forwarded-Client-Cert: x\r\n");
    assert_eq!(shown(&on, &twice).await, [CALLER]);
    assert_eq!(shown(&[], "").await, [""; 0]);
    // Without, the header is the application's own business.
    assert_eq!(shown(&[], &forged).await, [FORGED]);
}
