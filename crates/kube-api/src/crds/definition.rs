//! From a resource type to its definition. Schemas carry no defaults and nothing `nullable`: an
//! API server would write the first into the user's objects.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation, JSONSchemaProps,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::schema::{OptionalEnum, OptionalIntOrString, StructuralSchemaRewriter};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::annotations;
use crate::status::IstioStatus;

/// What a definition of Istio's says beside the schema.
pub(super) struct Definition {
    /// One sentence about the kind.
    pub description: &'static str,
    /// Short name for `kubectl`.
    pub short_name: &'static str,
    /// Category beside `istio-io`.
    pub category: &'static str,
    /// Value of the label `istio`; those of some groups have none.
    pub component: &'static str,
    /// Columns that `kubectl get` shows: name, type, path, description.
    pub columns: &'static [(&'static str, &'static str, &'static str, &'static str)],
    /// Versions; all are served, and all are alike.
    pub versions: &'static [&'static str],
    /// The version that is stored.
    pub stored: &'static str,
}

/// The column with the age of an object.
pub(super) const AGE: (&str, &str, &str, &str) = (
    "Age",
    "date",
    ".metadata.creationTimestamp",
    "When the object was created.",
);

impl Definition {
    /// The definition of the resource `K` with the spec `S`.
    pub(super) fn build<K, S>(&self) -> Result<CustomResourceDefinition, serde_json::Error>
    where
        K: Resource<DynamicType = ()>,
        S: JsonSchema,
    {
        let schema = self.schema::<S>()?;
        let (kind, plural) = (K::kind(&()).into_owned(), K::plural(&()).into_owned());
        Ok(CustomResourceDefinition {
            metadata: ObjectMeta {
                name: Some(format!("{plural}.{}", K::group(&()))),
                labels: Some(self.labels()),
                annotations: Some(BTreeMap::from([(
                    annotations::HELM_RESOURCE_POLICY.to_owned(),
                    "keep".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            spec: CustomResourceDefinitionSpec {
                group: K::group(&()).into_owned(),
                names: CustomResourceDefinitionNames {
                    categories: Some(vec!["istio-io".to_owned(), self.category.to_owned()]),
                    list_kind: Some(format!("{kind}List")),
                    singular: Some(kind.to_lowercase()),
                    short_names: Some(vec![self.short_name.to_owned()]),
                    kind,
                    plural,
                },
                scope: "Namespaced".to_owned(),
                versions: self
                    .versions
                    .iter()
                    .map(|v| self.version(v, &schema))
                    .collect(),
                ..CustomResourceDefinitionSpec::default()
            },
            status: None,
        })
    }

    /// The labels that Istio's charts give.
    fn labels(&self) -> BTreeMap<String, String> {
        [
            ("app", "istio-pilot"),
            ("chart", "istio"),
            ("heritage", "Tiller"),
            ("istio", self.component),
            ("release", "istio"),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
    }

    fn version(&self, name: &str, schema: &JSONSchemaProps) -> CustomResourceDefinitionVersion {
        let columns = self.columns.iter().map(|(name, type_, path, description)| {
            CustomResourceColumnDefinition {
                name: (*name).to_owned(),
                type_: (*type_).to_owned(),
                json_path: (*path).to_owned(),
                description: Some((*description).to_owned()),
                ..CustomResourceColumnDefinition::default()
            }
        });
        CustomResourceDefinitionVersion {
            name: name.to_owned(),
            served: true,
            storage: self.stored == name,
            additional_printer_columns: (!self.columns.is_empty()).then(|| columns.collect()),
            schema: Some(CustomResourceValidation {
                open_api_v3_schema: Some(schema.clone()),
            }),
            subresources: Some(CustomResourceSubresources {
                status: Some(CustomResourceSubresourceStatus(json!({}))),
                scale: None,
            }),
            ..CustomResourceDefinitionVersion::default()
        }
    }

    /// The spec is not required: an object without one is legal, and means an empty one.
    fn schema<S: JsonSchema>(&self) -> Result<JSONSchemaProps, serde_json::Error> {
        schema::<S, IstioStatus>(self.description, &[])
    }
}

/// What a definition of the Gateway API says beside the schema.
pub(super) struct GatewayDefinition {
    /// One sentence about the kind.
    pub description: &'static str,
    /// Short names for `kubectl`.
    pub short_names: &'static [&'static str],
    /// Columns that `kubectl get` shows: name, type, path.
    pub columns: &'static [(&'static str, &'static str, &'static str)],
    /// Versions, the stored one first; all are served, and all are alike.
    pub versions: &'static [&'static str],
    /// Its objects are in no namespace.
    pub cluster: bool,
}

impl GatewayDefinition {
    /// The definition of the resource `K` with the spec `S` and the status `T`.
    pub(super) fn build<K, S, T>(&self) -> Result<CustomResourceDefinition, serde_json::Error>
    where
        K: Resource<DynamicType = ()>,
        S: JsonSchema,
        T: JsonSchema,
    {
        let schema = schema::<S, T>(self.description, &["spec"])?;
        let (kind, plural) = (K::kind(&()).into_owned(), K::plural(&()).into_owned());
        let annotations = [
            // Groups below k8s.io ask for it.
            (
                "api-approved.kubernetes.io",
                "unapproved, for clusters where the Gateway API was not installed",
            ),
            ("gateway.networking.k8s.io/bundle-version", "v1.6.3"),
            ("gateway.networking.k8s.io/channel", "experimental"),
            (annotations::HELM_RESOURCE_POLICY, "keep"),
        ];
        let short = self.short_names.iter().map(|name| (*name).to_owned());
        let version = |name: &&str| CustomResourceDefinitionVersion {
            name: (*name).to_owned(),
            served: true,
            storage: self.versions.first() == Some(name),
            additional_printer_columns: Some(self.columns.iter().map(column).collect()),
            schema: Some(CustomResourceValidation {
                open_api_v3_schema: Some(schema.clone()),
            }),
            subresources: Some(CustomResourceSubresources {
                status: Some(CustomResourceSubresourceStatus(json!({}))),
                scale: None,
            }),
            ..CustomResourceDefinitionVersion::default()
        };
        Ok(CustomResourceDefinition {
            metadata: ObjectMeta {
                name: Some(format!("{plural}.{}", K::group(&()))),
                annotations: Some(
                    annotations
                        .map(|(k, v)| (k.to_owned(), v.to_owned()))
                        .into(),
                ),
                ..ObjectMeta::default()
            },
            spec: CustomResourceDefinitionSpec {
                group: K::group(&()).into_owned(),
                names: CustomResourceDefinitionNames {
                    categories: Some(vec!["gateway-api".to_owned()]),
                    list_kind: Some(format!("{kind}List")),
                    singular: Some(kind.to_lowercase()),
                    short_names: Some(short.collect()),
                    kind,
                    plural,
                },
                scope: if self.cluster {
                    "Cluster"
                } else {
                    "Namespaced"
                }
                .to_owned(),
                versions: self.versions.iter().map(version).collect(),
                ..CustomResourceDefinitionSpec::default()
            },
            status: None,
        })
    }
}

fn column(
    (name, type_, path): &(&'static str, &'static str, &'static str),
) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: (*name).to_owned(),
        type_: (*type_).to_owned(),
        json_path: (*path).to_owned(),
        ..CustomResourceColumnDefinition::default()
    }
}

fn schema<S: JsonSchema, T: JsonSchema>(
    description: &str,
    required: &[&str],
) -> Result<JSONSchemaProps, serde_json::Error> {
    let mut schema = json!({
        "type": "object",
        "description": description,
        "properties": {"spec": schema_of::<S>(), "status": schema_of::<T>()},
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    clean(&mut schema);
    serde_json::from_value(schema)
}

/// The schema of a type in the form that an API server takes: nothing by reference.
fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::openapi3()
        .with(|s| {
            s.inline_subschemas = true;
            s.meta_schema = None;
        })
        .with_transform(schemars::transform::AddNullable::default())
        .with_transform(StructuralSchemaRewriter)
        .with_transform(OptionalEnum)
        .with_transform(OptionalIntOrString)
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Removes from a schema, and all schemas in it, what must not reach an API server; gives numbers
/// that may be texts the one form that it takes.
fn clean(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    if schema.contains_key("x-kubernetes-int-or-string") {
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        schema.insert("anyOf".to_owned(), either);
    }
    for key in ["default", "nullable", "title"] {
        schema.remove(key);
    }
    // Kubernetes knows no formats of numbers without a sign.
    let format = schema.get("format").and_then(Value::as_str);
    if format.is_some_and(|format| format.starts_with("uint")) {
        schema.remove("format");
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(clean);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            clean(inner);
        }
    }
}
