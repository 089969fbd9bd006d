//! Templates to objects: Go templates with the functions of Helm and sprig that the charts use.

mod functions;
mod yaml;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use gotmpl::{FuncMap, Template, TemplateError, Value as TValue, to_value};
use serde_json::{Value, json};

use crate::chart::Chart;

/// What Helm calls the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its name, the label `app.kubernetes.io/instance`.
    pub name: String,
    /// The namespace that it goes to.
    pub namespace: String,
    /// What manages it, the label `app.kubernetes.io/managed-by`.
    pub service: String,
}

/// Why a chart gives no objects.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A template cannot be parsed or executed. What a chart says with `fail` comes this way.
    #[error("chart {chart}, {template}: {reason}")]
    Template {
        /// Name of the chart.
        chart: String,
        /// Path of the template.
        template: String,
        /// What is wrong.
        reason: String,
    },
    /// The output is not a sequence of YAML objects.
    #[error("chart {chart}, {template} gives no valid YAML: {reason}")]
    Yaml {
        /// Name of the chart.
        chart: String,
        /// Path of the template.
        template: String,
        /// What is wrong.
        reason: String,
    },
}

/// Renders a chart with these user values: its CRDs first, then the objects of its templates in
/// the order of their files.
///
/// # Errors
/// See [`RenderError`].
pub fn render(chart: &Chart, release: &Release, values: &Value) -> Result<Vec<Value>, RenderError> {
    let mut objects = Vec::new();
    for (path, text) in &chart.crds {
        objects.extend(documents(chart, path, text)?);
    }
    let engine = Engine::new(chart)?;
    let data = data(chart, release, values);
    for (path, _) in &chart.templates {
        if path.ends_with(".tpl") {
            continue;
        }
        let text = engine
            .execute(path, &data)
            .map_err(|e| template_error(chart, path, &e))?;
        objects.extend(documents(chart, path, &text)?);
    }
    Ok(objects)
}

/// A value as YAML, without a final line break.
pub fn write_yaml(value: &Value) -> String {
    yaml::write(value)
}

fn template_error(chart: &Chart, template: &str, error: &TemplateError) -> RenderError {
    let reason = match error {
        TemplateError::Exec(reason) => reason.clone(),
        other => other.to_string(),
    };
    RenderError::Template {
        chart: chart.name.clone(),
        template: template.to_owned(),
        reason,
    }
}

fn documents(chart: &Chart, template: &str, text: &str) -> Result<Vec<Value>, RenderError> {
    yaml::documents(text).map_err(|reason| RenderError::Yaml {
        chart: chart.name.clone(),
        template: template.to_owned(),
        reason,
    })
}

/// The root that templates see.
fn data(chart: &Chart, release: &Release, user: &Value) -> TValue {
    let mut values = chart.values.clone();
    crate::values::merge(&mut values, user.clone());
    let root = json!({
        "Values": values,
        "Release": {
            "Name": release.name,
            "Namespace": release.namespace,
            "Service": release.service,
            "IsInstall": true,
            "IsUpgrade": false,
            "Revision": 1,
        },
        "Chart": {
            "Name": chart.name,
            "Version": chart.version,
            "AppVersion": chart.app_version,
        },
    });
    // A JSON tree always has a template value.
    to_value(&root).unwrap_or(TValue::Nil)
}

/// All templates of a chart, parsed; each file is a template named by its path.
struct Engine {
    template: Arc<Template>,
}

impl Engine {
    fn new(chart: &Chart) -> Result<Self, RenderError> {
        // `include` runs templates of the set that it is itself a function of.
        let own: Arc<OnceLock<Weak<Template>>> = Arc::default();
        let mut functions: FuncMap = functions::all();
        functions.insert("include".into(), Arc::new(include(own.clone())));
        let mut set = Template::new(&chart.name).funcs(functions.clone());
        for (path, text) in &chart.templates {
            let fail = |e: TemplateError| template_error(chart, path, &e);
            let parsed = Template::new(path)
                .funcs(functions.clone())
                .parse(text)
                .map_err(fail)?;
            let mut trees = BTreeMap::new();
            for name in parsed.templates() {
                if let Some(tree) = parsed.lookup(name) {
                    trees.insert(name.to_owned(), tree.clone());
                }
            }
            if let Some(tree) = parsed.lookup(path) {
                trees.insert(path.clone(), tree.clone());
            }
            for (name, tree) in trees {
                set = set.add_parse_tree(&name, tree);
            }
        }
        let template = Arc::new(set);
        let _ = own.set(Arc::downgrade(&template));
        Ok(Self { template })
    }

    fn execute(&self, name: &str, data: &TValue) -> Result<String, TemplateError> {
        if self.template.lookup(name).is_none() {
            // A file with nothing but comments or definitions.
            return Ok(String::new());
        }
        let text = self.template.execute_template_to_string(name, data)?;
        Ok(text.replace("<no value>", ""))
    }
}

fn include(
    own: Arc<OnceLock<Weak<Template>>>,
) -> impl Fn(&[TValue]) -> gotmpl::Result<TValue> + Send + Sync {
    move |args| {
        let [TValue::String(name), data] = args else {
            return Err(TemplateError::Exec(
                "include needs a name and a value".into(),
            ));
        };
        let set = own.get().and_then(Weak::upgrade);
        let set = set.ok_or_else(|| TemplateError::Exec("include outside of a template".into()))?;
        let text = set.execute_template_to_string(name, data)?;
        Ok(TValue::String(text.replace("<no value>", "").into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(templates: &[(&str, &str)]) -> Chart {
        Chart {
            name: "c".into(),
            version: "1.2.3".into(),
            app_version: "4.5.6".into(),
            values: json!({"a": 1, "list": ["x", "y"]}),
            templates: templates
                .iter()
                .map(|(p, t)| ((*p).to_owned(), (*t).to_owned()))
                .collect(),
            crds: vec![("crds/x.yaml".into(), "kind: CRD\n".into())],
        }
    }

    fn release() -> Release {
        Release {
            name: "r".into(),
            namespace: "ns".into(),
            service: "ambit".into(),
        }
    }

    #[test]
    fn definitions_are_shared_between_files() {
        let chart = chart(&[
            (
                "templates/_h.tpl",
                "{{- define \"h\" -}}{{ .a }}-{{ .missing }}{{- end -}}",
            ),
            (
                "templates/a.yaml",
                "kind: A\nx: {{ include \"h\" .Values | quote }}\nns: {{ .Release.Namespace }}\n---\n{{- if .Values.b }}\nkind: B\n{{- end }}\n",
            ),
        ]);
        let objects = render(&chart, &release(), &json!({"a": 7})).expect("render");
        assert_eq!(
            objects,
            [
                json!({"kind": "CRD"}),
                json!({"kind": "A", "x": "7-", "ns": "ns"})
            ]
        );
    }

    #[test]
    fn mistakes_name_the_chart_and_the_file() {
        for (text, part) in [
            ("{{ fail \"unknown profile X\" }}", "unknown profile X"),
            ("{{ nosuchfunction 1 }}", "nosuchfunction"),
            ("{{ include \"nosuch\" . }}", "nosuch"),
            ("{{ if }}", "empty command"),
            ("a: [", "YAML"),
            ("just text", "object"),
        ] {
            let error = render(
                &chart(&[("templates/x.yaml", text)]),
                &release(),
                &json!({}),
            );
            let error = error.expect_err(text).to_string();
            assert!(error.contains("chart c, templates/x.yaml"), "{error}");
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
