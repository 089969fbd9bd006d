//! The demo's checks can fail: without enrolment the link is readable, and the demo says so.

use std::process::Command;

#[test]
fn without_enrolment_the_demo_reports_plaintext_and_fails() {
    let name = format!("demo-plain-{}", std::process::id());
    let output = Command::new(env!("CARGO_BIN_EXE_ambit-xtask"))
        .args(["demo", "--without-enrolment", "--name", &name])
        .output()
        .expect("the demo can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("FAIL Enrolled: the link between the nodes carries TLS only"),
        "{text}"
    );
    assert!(
        text.contains("plaintext: the text of a review is readable on the link"),
        "{text}"
    );
    assert!(
        text.contains("ok   Not enrolled: the link between the nodes is readable"),
        "{text}"
    );
}
