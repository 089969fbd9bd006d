//! Which namespaces the mesh sees: `discoverySelectors` of the mesh configuration.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::labels::Labels;

/// Whether a namespace with these labels is seen. Without selectors all are; with several, one of
/// them must select it.
pub fn in_scope(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.is_empty() || selectors.iter().any(|s| label_selector_selects(s, labels))
}

/// Kubernetes' label selector: all pairs and all expressions must hold. An operator that does not
/// exist never holds.
pub fn label_selector_selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let pairs = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    pairs
        .into_iter()
        .all(|(k, v)| labels.get(k.as_str()).is_some_and(|have| **have == **v))
        && expressions.into_iter().all(|e| expression_holds(e, labels))
}

fn expression_holds(expression: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let have = labels.get(expression.key.as_str());
    let listed = |value: &str| {
        expression
            .values
            .iter()
            .flatten()
            .any(|wanted| wanted.as_str() == value)
    };
    match expression.operator.as_str() {
        "In" => have.is_some_and(|v| listed(v)),
        "NotIn" => have.is_none_or(|v| !listed(v)),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selectors(value: serde_json::Value) -> Vec<LabelSelector> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn table() {
        let prod: Labels = [("env".into(), "prod".into())].into();
        let none = Labels::new();
        for (value, sees_prod, sees_none) in [
            (json!([]), true, true),
            (json!([{}]), true, true),
            (json!([{"matchLabels": {"env": "prod"}}]), true, false),
            (
                json!([{"matchLabels": {"env": "dev"}}, {"matchLabels": {"env": "prod"}}]),
                true,
                false,
            ),
            (
                json!([{"matchExpressions": [{"key": "env", "operator": "In", "values": ["prod"]}]}]),
                true,
                false,
            ),
            (
                json!([{"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}]),
                false,
                true,
            ),
            (
                json!([{"matchExpressions": [{"key": "env", "operator": "Exists"}]}]),
                true,
                false,
            ),
            (
                json!([{"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}]),
                false,
                true,
            ),
            (
                json!([{"matchExpressions": [{"key": "env", "operator": "Maybe"}]}]),
                false,
                false,
            ),
            (
                json!([{"matchLabels": {"env": "prod"}, "matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}]),
                false,
                false,
            ),
        ] {
            let selectors = selectors(value.clone());
            assert_eq!(in_scope(&selectors, &prod), sees_prod, "{value} prod");
            assert_eq!(in_scope(&selectors, &none), sees_none, "{value} none");
        }
    }
}
