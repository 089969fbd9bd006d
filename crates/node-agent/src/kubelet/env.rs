//! A container's environment, in the order that decides which value wins: image, services,
//! `envFrom`, `env`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::expand::expand;
use super::fields::{self, PodAddresses};
use super::objects::Objects;
use crate::catalogue::{DEFAULT_PATH, Image};

/// Sources beside the container itself.
pub(crate) struct EnvContext<'a> {
    pub pod: &'a Pod,
    pub image: &'a Image,
    pub hostname: &'a str,
    pub services: &'a [(String, String)],
    pub addresses: &'a PodAddresses,
    pub allocatable: &'a BTreeMap<String, Quantity>,
    pub objects: &'a Objects,
}

/// An ordered environment in which a later value replaces an earlier one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    list: Vec<(String, String)>,
}

impl Environment {
    fn set(&mut self, name: String, value: String) {
        match self.list.iter_mut().find(|(existing, _)| *existing == name) {
            Some(entry) => entry.1 = value,
            None => self.list.push((name, value)),
        }
    }

    fn set_default(&mut self, name: &str, value: &str) {
        if self.get(name).is_none() {
            self.list.push((name.to_string(), value.to_string()));
        }
    }

    /// A variable's value.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.list
            .iter()
            .find(|(existing, _)| existing == name)
            .map(|(_, value)| value.clone())
    }

    /// Sets `HOME` for root, as runtimes do, unless the container sets it.
    pub(crate) fn set_home(&mut self, uid: u32) {
        self.set_default("HOME", if uid == 0 { "/root" } else { "/" });
    }

    /// All variables.
    pub(crate) fn into_list(self) -> Vec<(String, String)> {
        self.list
    }
}

/// Builds the environment.
///
/// # Errors
/// A message for `CreateContainerConfigError`: a missing object or key, an unknown field.
pub(crate) async fn build(
    container: &Container,
    context: &EnvContext<'_>,
) -> Result<Environment, String> {
    let mut env = Environment::default();
    for (name, value) in &context.image.env {
        env.set(name.clone(), value.clone());
    }
    for (name, value) in context.services {
        env.set(name.clone(), value.clone());
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        for (name, value) in from_source(source, context).await? {
            env.set(format!("{prefix}{name}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = variable_value(container, variable, &env, context).await? {
            env.set(variable.name.clone(), value);
        }
    }
    env.set_default("PATH", DEFAULT_PATH);
    env.set_default("HOSTNAME", context.hostname);
    Ok(env)
}

async fn from_source(
    source: &k8s_openapi::api::core::v1::EnvFromSource,
    context: &EnvContext<'_>,
) -> Result<Vec<(String, String)>, String> {
    if let Some(reference) = &source.config_map_ref {
        let data = config_map(context, &reference.name).await?;
        let data = required(data, reference.optional, || {
            format!("configmap {:?} not found", reference.name)
        })?;
        return Ok(data.unwrap_or_default().into_iter().collect());
    }
    if let Some(reference) = &source.secret_ref {
        let data = secret(context, &reference.name).await?;
        let data = required(data, reference.optional, || {
            format!("secret {:?} not found", reference.name)
        })?;
        return Ok(data.unwrap_or_default().into_iter().collect());
    }
    Err("envFrom has neither configMapRef nor secretRef".to_string())
}

async fn variable_value(
    container: &Container,
    variable: &EnvVar,
    env: &Environment,
    context: &EnvContext<'_>,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else {
        let text = variable.value.as_deref().unwrap_or_default();
        return Ok(Some(expand(text, |name| env.get(name))));
    };
    if let Some(selector) = &source.field_ref {
        return fields::field(context.pod, selector, context.addresses).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(
            context.pod,
            selector,
            Some(&container.name),
            context.allocatable,
        )
        .map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let data = config_map(context, &selector.name).await?;
        let data = required(data, selector.optional, || {
            format!("configmap {:?} not found", selector.name)
        })?;
        let value = data.and_then(|data| data.get(&selector.key).cloned());
        return required(value, selector.optional, || {
            format!(
                "couldn't find key {} in ConfigMap {}",
                selector.key,
                qualified(context, &selector.name)
            )
        });
    }
    if let Some(selector) = &source.secret_key_ref {
        let data = secret(context, &selector.name).await?;
        let data = required(data, selector.optional, || {
            format!("secret {:?} not found", selector.name)
        })?;
        let value = data.and_then(|data| data.get(&selector.key).cloned());
        return required(value, selector.optional, || {
            format!(
                "couldn't find key {} in Secret {}",
                selector.key,
                qualified(context, &selector.name)
            )
        });
    }
    Err(format!(
        "variable {:?} has a valueFrom that this node does not support",
        variable.name
    ))
}

/// A missing value is an error unless it was declared optional.
fn required<T>(
    value: Option<T>,
    optional: Option<bool>,
    message: impl Fn() -> String,
) -> Result<Option<T>, String> {
    match value {
        None if optional != Some(true) => Err(message()),
        other => Ok(other),
    }
}

fn namespace<'a>(context: &'a EnvContext<'_>) -> &'a str {
    context
        .pod
        .metadata
        .namespace
        .as_deref()
        .unwrap_or_default()
}

fn qualified(context: &EnvContext<'_>, name: &str) -> String {
    format!("{}/{name}", namespace(context))
}

async fn config_map(
    context: &EnvContext<'_>,
    name: &str,
) -> Result<Option<BTreeMap<String, String>>, String> {
    let object = context
        .objects
        .config_map(namespace(context), name)
        .get()
        .await?;
    Ok(object.map(|object| object.data.clone().unwrap_or_default()))
}

async fn secret(
    context: &EnvContext<'_>,
    name: &str,
) -> Result<Option<BTreeMap<String, String>>, String> {
    let object = context
        .objects
        .secret(namespace(context), name)
        .get()
        .await?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(object.map(|object| {
        object
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), text(&value.0)))
            .collect()
    }))
}

/// Program and arguments: the pod's `command` and `args` over the image's (API, `Container.command`).
///
/// # Errors
/// Neither gives a program.
pub(crate) fn command_line(
    container: &Container,
    image: &Image,
    env: &Environment,
) -> Result<Vec<String>, String> {
    let expanded = |list: &[String]| -> Vec<String> {
        list.iter()
            .map(|text| expand(text, |name| env.get(name)))
            .collect()
    };
    let command = container.command.as_deref().filter(|list| !list.is_empty());
    let args = container.args.as_deref().filter(|list| !list.is_empty());
    let line = match (command, args) {
        (Some(command), args) => [expanded(command), expanded(args.unwrap_or_default())].concat(),
        (None, Some(args)) => [image.entrypoint.clone(), expanded(args)].concat(),
        (None, None) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    };
    if line.is_empty() {
        return Err(
            "no command specified: the image has no entry point, so the pod must give a command"
                .to_string(),
        );
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let yaml = "images: [{names: [a], entrypoint: [e, f], cmd: [g]}]";
        crate::catalogue::Catalogue::parse(yaml, &Default::default())
            .unwrap()
            .lookup("a")
            .unwrap()
            .clone()
    }

    fn line(command: &[&str], args: &[&str]) -> Vec<String> {
        let list = |items: &[&str]| Some(items.iter().map(|item| item.to_string()).collect());
        let container = Container {
            command: list(command),
            args: list(args),
            ..Default::default()
        };
        let env = Environment {
            list: vec![("X".into(), "1".into())],
        };
        command_line(&container, &image(), &env).unwrap()
    }

    #[test]
    fn command_and_args_replace_the_images() {
        assert_eq!(line(&[], &[]), ["e", "f", "g"]);
        assert_eq!(line(&[], &["$(X)"]), ["e", "f", "1"]);
        assert_eq!(line(&["c"], &[]), ["c"]);
        assert_eq!(line(&["c"], &["a$(X)"]), ["c", "a1"]);
        let empty = Image {
            entrypoint: vec![],
            cmd: vec![],
            ..image()
        };
        assert!(command_line(&Container::default(), &empty, &Environment::default()).is_err());
    }

    #[test]
    fn later_values_win_in_place() {
        let mut env = Environment::default();
        env.set("A".into(), "1".into());
        env.set("B".into(), "2".into());
        env.set("A".into(), "3".into());
        env.set_default("B", "9");
        assert_eq!(
            env.into_list(),
            [
                ("A".to_string(), "3".to_string()),
                ("B".to_string(), "2".to_string())
            ]
        );
    }
}
