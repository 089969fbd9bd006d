//! The node's CNI configuration as text in, text out: insert the plugin, find it, take it out. Pure.
//!
//! Three ways exist. Chained (the usual one): the plugin is the last of the node's first
//! configuration. Owned: the mesh writes a file of its own that sorts first and repeats the node's
//! plugins. Standalone: a file with the plugin alone, for meta plugins that call it by name.

use serde_json::{Map, Value, json};

/// Name and type of the plugin.
pub const PLUGIN: &str = "istio-cni";
/// Name of a network that was configured without a list.
const WRAPPED_NAME: &str = "k8s-pod-network";

/// Why a configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistError {
    /// The text is not a JSON object.
    #[error("not a JSON object: {0}")]
    NotJson(String),
    /// The object is neither a list of plugins nor a plugin.
    #[error("neither a list with \"plugins\" nor a plugin with \"type\"")]
    NoPlugins,
}

/// The plugin's own entry.
pub fn entry(settings: &Map<String, Value>) -> Value {
    let mut entry = Map::new();
    entry.insert("type".into(), json!(PLUGIN));
    entry.insert("name".into(), json!(PLUGIN));
    entry.extend(settings.clone());
    Value::Object(entry)
}

/// The configuration with the plugin as its last one, once. A single plugin is wrapped into a list.
///
/// # Errors
/// When the text is no CNI configuration.
pub fn insert(text: &str, entry: &Value) -> Result<Value, ConflistError> {
    let mut config = parse(text)?;
    if !config.contains_key("plugins") {
        config = wrap(config)?;
    }
    let Some(plugins) = config.get_mut("plugins").and_then(Value::as_array_mut) else {
        return Err(ConflistError::NoPlugins);
    };
    plugins.retain(|p| p["type"] != PLUGIN);
    plugins.push(entry.clone());
    Ok(Value::Object(config))
}

/// The configuration without the plugin, or `None` when nothing else is left in it.
///
/// # Errors
/// When the text is no CNI configuration.
pub fn remove(text: &str) -> Result<Option<Value>, ConflistError> {
    let mut config = parse(text)?;
    let Some(plugins) = config.get_mut("plugins").and_then(Value::as_array_mut) else {
        let own = config.get("type").is_some_and(|t| t == PLUGIN);
        return Ok((!own).then_some(Value::Object(config)));
    };
    plugins.retain(|p| p["type"] != PLUGIN);
    Ok((!plugins.is_empty()).then_some(Value::Object(config)))
}

/// Whether the configuration ends with exactly this entry and holds it once.
pub fn is_inserted(text: &str, entry: &Value) -> bool {
    let Ok(config) = parse(text) else {
        return false;
    };
    let Some(plugins) = config.get("plugins").and_then(Value::as_array) else {
        return false;
    };
    plugins.last() == Some(entry) && plugins.iter().filter(|p| p["type"] == PLUGIN).count() == 1
}

/// Whether the text is a CNI configuration that a runtime would use.
pub fn is_valid(text: &str) -> bool {
    let Ok(config) = parse(text) else {
        return false;
    };
    match config.get("plugins").and_then(Value::as_array) {
        Some(plugins) => plugins.iter().any(|p| p["type"].is_string()),
        None => config.get("type").is_some_and(Value::is_string),
    }
}

/// A configuration with the plugin alone.
pub fn standalone(entry: &Value) -> Value {
    let mut config = Map::new();
    config.insert("cniVersion".into(), json!("0.3.1"));
    if let Some(own) = entry.as_object() {
        config.extend(own.clone());
    }
    Value::Object(config)
}

fn parse(text: &str) -> Result<Map<String, Value>, ConflistError> {
    serde_json::from_str(text).map_err(|e| ConflistError::NotJson(e.to_string()))
}

fn wrap(mut plugin: Map<String, Value>) -> Result<Map<String, Value>, ConflistError> {
    if !plugin.get("type").is_some_and(Value::is_string) {
        return Err(ConflistError::NoPlugins);
    }
    let version = plugin
        .remove("cniVersion")
        .unwrap_or_else(|| json!("0.3.1"));
    let mut list = Map::new();
    list.insert("name".into(), json!(WRAPPED_NAME));
    list.insert("cniVersion".into(), version);
    list.insert("plugins".into(), json!([plugin]));
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(level: &str) -> Value {
        let mut settings = Map::new();
        settings.insert("plugin_log_level".into(), json!(level));
        entry(&settings)
    }

    const KINDNET: &str =
        r#"{"cniVersion":"0.3.1","name":"kindnet","plugins":[{"type":"ptp"},{"type":"portmap"}]}"#;

    #[test]
    fn the_plugin_comes_last_and_once() {
        let first = insert(KINDNET, &own("info")).expect("insert");
        assert_eq!(
            first.to_string(),
            r#"{"cniVersion":"0.3.1","name":"kindnet","plugins":[{"type":"ptp"},{"type":"portmap"},{"type":"istio-cni","name":"istio-cni","plugin_log_level":"info"}]}"#
        );
        assert!(is_inserted(&first.to_string(), &own("info")));
        assert!(!is_inserted(&first.to_string(), &own("debug")));
        assert!(!is_inserted(KINDNET, &own("info")));
        let second = insert(&first.to_string(), &own("debug")).expect("insert");
        assert_eq!(second["plugins"].as_array().expect("list").len(), 3);
        let moved = insert(
            r#"{"plugins":[{"type":"istio-cni"},{"type":"ptp"}]}"#,
            &own("info"),
        )
        .expect("insert");
        assert_eq!(
            (&moved["plugins"][0]["type"], &moved["plugins"][1]["type"]),
            (&json!("ptp"), &json!("istio-cni"))
        );
    }

    #[test]
    fn a_single_plugin_is_wrapped() {
        let list = insert(
            r#"{"cniVersion":"0.4.0","type":"bridge","mtu":9000}"#,
            &own("info"),
        )
        .expect("insert");
        assert_eq!(list["name"], "k8s-pod-network");
        assert_eq!(list["cniVersion"], "0.4.0");
        assert_eq!(list["plugins"][0], json!({"type": "bridge", "mtu": 9000}));
    }

    #[test]
    fn removal_restores_the_original() {
        let inserted = insert(KINDNET, &own("info")).expect("insert").to_string();
        let removed = remove(&inserted)
            .expect("remove")
            .expect("something is left");
        assert_eq!(removed.to_string(), KINDNET);
        assert_eq!(
            remove(&standalone(&own("info")).to_string()).expect("remove"),
            None
        );
        assert_eq!(
            remove(r#"{"plugins":[{"type":"istio-cni"}]}"#).expect("remove"),
            None
        );
    }

    #[test]
    fn other_files_are_refused() {
        for text in ["", "[]", "7"] {
            assert!(
                matches!(insert(text, &own("info")), Err(ConflistError::NotJson(_))),
                "{text}"
            );
            assert!(!is_valid(text));
        }
        assert_eq!(insert("{}", &own("info")), Err(ConflistError::NoPlugins));
        assert_eq!(
            insert(r#"{"plugins":7}"#, &own("info")),
            Err(ConflistError::NoPlugins)
        );
        assert!(!is_valid(r#"{"plugins":[]}"#));
        assert!(is_valid(KINDNET) && is_valid(r#"{"type":"bridge"}"#));
    }
}
