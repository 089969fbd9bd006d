//! What a configuration of webhooks is filled in with, and what it may not say.

use super::*;

#[tokio::test]
async fn configurations_are_filled_in_and_checked() {
    let (cluster, program) = start().await;
    let mut client = program.behind("hooks", "/x");
    client["service"].as_object_mut().unwrap().remove("path");
    let plain = hook(&client, &json!({}));
    let made = configure(&cluster, "mutating", "m", std::slice::from_ref(&plain))
        .await
        .ok();
    let made = &made["webhooks"][0];
    for (key, value) in [
        ("failurePolicy", json!("Fail")),
        ("matchPolicy", json!("Equivalent")),
        ("reinvocationPolicy", json!("Never")),
        ("timeoutSeconds", json!(10)),
        ("namespaceSelector", json!({})),
        ("objectSelector", json!({})),
    ] {
        assert_eq!(made[key], value, "{key}");
    }
    assert_eq!(made["rules"][0]["scope"], "*");
    assert_eq!(made["clientConfig"]["service"]["port"], 443);
    let with = |key: &str, value: Value| json!({key: value});
    let condition = |text: &str| {
        with(
            "matchConditions",
            json!([{"name": "c", "expression": text}]),
        )
    };
    let client = |value: Value| with("clientConfig", value);
    for (more, field, why) in [
        (
            with("name", json!("short")),
            "webhooks[0].name",
            "should be a domain with at least three segments separated by dots",
        ),
        (
            with("name", json!("")),
            "webhooks[0].name",
            "Required value",
        ),
        (
            with("sideEffects", json!("Some")),
            "webhooks[0].sideEffects",
            "Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            with("sideEffects", Value::Null),
            "webhooks[0].sideEffects",
            "Required value: must specify one of None, NoneOnDryRun",
        ),
        (
            with("failurePolicy", json!("Maybe")),
            "webhooks[0].failurePolicy",
            "supported values: \"Fail\", \"Ignore\"",
        ),
        (
            with("matchPolicy", json!("Close")),
            "webhooks[0].matchPolicy",
            "supported values: \"Equivalent\", \"Exact\"",
        ),
        (
            with("timeoutSeconds", json!(31)),
            "webhooks[0].timeoutSeconds",
            "the timeout value must be between 1 and 30 seconds",
        ),
        (
            with("admissionReviewVersions", json!([])),
            "webhooks[0].admissionReviewVersions",
            "must specify one of v1, v1beta1",
        ),
        (
            with("admissionReviewVersions", json!(["v9"])),
            "webhooks[0].admissionReviewVersions",
            "must include at least one of v1, v1beta1",
        ),
        (
            with("rules", json!([rule(&["PATCH"], "", "pods")])),
            "webhooks[0].rules[0].operations[0]",
            "Unsupported value: \"PATCH\"",
        ),
        (
            with("rules", json!([rule(&["*", "CREATE"], "", "pods")])),
            "webhooks[0].rules[0].operations",
            "if '*' is present, must not specify other operations",
        ),
        (
            with("rules", json!([rule(&["CREATE"], "", "")])),
            "webhooks[0].rules[0].resources[0]",
            "Required value",
        ),
        (
            with(
                "namespaceSelector",
                json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}),
            ),
            "webhooks[0].namespaceSelector.matchExpressions[0].operator",
            "not a valid selector operator",
        ),
        (
            client(json!({})),
            "webhooks[0].clientConfig",
            "exactly one of url or service is required",
        ),
        (
            client(json!({"url": "http://a.example/"})),
            "webhooks[0].clientConfig.url",
            "'https' is the only allowed URL scheme",
        ),
        (
            client(json!({"url": "https://a.example/?q"})),
            "webhooks[0].clientConfig.url",
            "query parameters are not permitted in the URL",
        ),
        (
            client(json!({"service": {"name": "a", "namespace": "b", "path": "x"}})),
            "webhooks[0].clientConfig.service.path",
            "must start with a '/'",
        ),
        (
            condition("1 +"),
            "webhooks[0].matchConditions[0].expression",
            "compilation failed",
        ),
        (
            condition("1"),
            "webhooks[0].matchConditions[0].expression",
            "must evaluate to bool",
        ),
        (
            condition("nothing == 1"),
            "webhooks[0].matchConditions[0].expression",
            "compilation failed",
        ),
        (
            condition("authorizer.path('/x').check('get').allowed()"),
            "webhooks[0].matchConditions[0].expression",
            "compilation failed",
        ),
    ] {
        let mut wrong = plain.clone();
        for (key, value) in more.as_object().unwrap() {
            wrong[key] = value.clone();
        }
        let message = configure(&cluster, "validating", "w", &[wrong])
            .await
            .refused(422, "Invalid");
        let start =
            "ValidatingWebhookConfiguration.admissionregistration.k8s.io \"w\" is invalid: ";
        assert!(message.starts_with(start), "{message}");
        assert!(
            message.contains(&format!("{field}: ")) && message.contains(why),
            "{message}"
        );
    }
}
