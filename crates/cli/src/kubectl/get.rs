//! `get`: lists and single objects, as tables or whole, once or for as long as they change.

use super::{
    args::Get,
    client::{Cluster, JSON, Kind, TABLE, Target, escape, list, text},
    error,
    jsonpath::Template,
    output::{Columns, Format, TableOptions, json, without_managers, yaml},
};
use anyhow::bail;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Runs the command.
pub async fn run(cluster: &Cluster, args: Get) -> anyhow::Result<i32> {
    let format = Format::parse(args.output.as_deref())?;
    let targets = cluster.targets(&args.what)?;
    if args.watch {
        return watch(cluster, &args, &format, &targets).await;
    }
    match &format {
        Format::Table { wide } => table(cluster, &args, *wide, &targets).await,
        format => whole(cluster, &args, format, &targets).await,
    }
}

/// The URL of a target, selectors included.
fn url(cluster: &Cluster, args: &Get, target: &Target) -> String {
    let namespace = (!args.all_namespaces).then_some(cluster.namespace());
    match target {
        Target::One(kind, name) => format!("{}/{name}", kind.url(Some(cluster.namespace()))),
        Target::All(kind) => {
            let mut url = kind.url(namespace) + "?limit=500";
            for (key, value) in [
                ("labelSelector", &args.selector),
                ("fieldSelector", &args.field_selector),
            ] {
                if let Some(value) = value {
                    url.push_str(&format!("&{key}={}", escape(value)));
                }
            }
            url
        }
    }
}

fn kind_of(target: &Target) -> &Kind {
    match target {
        Target::One(kind, _) | Target::All(kind) => kind,
    }
}

/// One answer: None where the object may be missing and is.
async fn fetch(
    cluster: &Cluster,
    args: &Get,
    target: &Target,
    accept: &str,
) -> anyhow::Result<Option<Value>> {
    let url = url(cluster, args, target);
    let mut answer = match cluster.send("GET", &url, accept, None).await {
        Ok(answer) => answer,
        Err(error) if args.ignore_not_found && error::is_not_found(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Further pages.
    loop {
        let token = text(&answer, "/metadata/continue").to_string();
        if token.is_empty() {
            return Ok(Some(answer));
        }
        let next = cluster
            .send(
                "GET",
                &format!("{url}&continue={}", escape(&token)),
                accept,
                None,
            )
            .await?;
        for key in ["rows", "items"] {
            let more = list(&next, &format!("/{key}")).to_vec();
            if let Some(all) = answer.get_mut(key).and_then(Value::as_array_mut) {
                all.extend(more);
            }
        }
        answer["metadata"] = next["metadata"].clone();
    }
}

fn options(args: &Get, wide: bool, kind: &Kind, several: bool) -> TableOptions {
    TableOptions {
        wide,
        namespaces: args.all_namespaces && kind.namespaced,
        labels: args.show_labels,
        label_columns: args.label_columns.clone(),
        prefix: several.then(|| kind.printed()),
    }
}

async fn table(
    cluster: &Cluster,
    args: &Get,
    wide: bool,
    targets: &[Target],
) -> anyhow::Result<i32> {
    let mut kinds: Vec<&Kind> = Vec::new();
    for target in targets {
        if kinds.last() != Some(&kind_of(target)) {
            kinds.push(kind_of(target));
        }
    }
    let several = kinds.len() > 1;
    let (mut code, mut shown) = (0, 0);
    let mut out = io::stdout().lock();
    for kind in kinds {
        let options = options(args, wide, kind, several);
        let mut columns = Columns::default();
        let mut headed = false;
        for target in targets.iter().filter(|t| kind_of(t) == kind) {
            let table = match fetch(cluster, args, target, TABLE).await {
                Ok(Some(table)) => table,
                Ok(None) => continue,
                Err(error) => {
                    eprintln!("{}", error::shown(&error));
                    code = 1;
                    continue;
                }
            };
            let definitions = list(&table, "/columnDefinitions");
            for row in list(&table, "/rows") {
                if !headed && !args.no_headers {
                    // Tables of several kinds are apart by an empty line.
                    if shown > 0 {
                        writeln!(out)?;
                    }
                    columns.push(options.headings(definitions));
                }
                headed = true;
                columns.push(options.cells(definitions, row));
            }
        }
        shown += usize::from(headed);
        columns.flush(&mut out)?;
    }
    if shown == 0 && code == 0 && !args.ignore_not_found {
        nothing(cluster, args, targets);
    }
    Ok(code)
}

/// What kubectl says on stderr when there is nothing.
fn nothing(cluster: &Cluster, args: &Get, targets: &[Target]) {
    let namespaced = targets.iter().any(|t| kind_of(t).namespaced);
    match namespaced && !args.all_namespaces {
        true => eprintln!("No resources found in {} namespace.", cluster.namespace()),
        false => eprintln!("No resources found"),
    }
}

async fn whole(
    cluster: &Cluster,
    args: &Get,
    format: &Format,
    targets: &[Target],
) -> anyhow::Result<i32> {
    let (mut objects, mut code) = (Vec::new(), 0);
    for target in targets {
        let kind = kind_of(target);
        match fetch(cluster, args, target, JSON).await {
            Ok(None) => {}
            Ok(Some(answer)) => match target {
                Target::One(..) => objects.push((kind, answer)),
                Target::All(_) => {
                    for mut item in list(&answer, "/items").iter().cloned() {
                        item["kind"] = kind.kind.clone().into();
                        item["apiVersion"] = kind.api_version().into();
                        objects.push((kind, item));
                    }
                }
            },
            Err(error) => {
                eprintln!("{}", error::shown(&error));
                code = 1;
            }
        }
    }
    if code != 0 && objects.is_empty() {
        return Ok(code);
    }
    let mut out = io::stdout().lock();
    if *format == Format::Name {
        for (kind, object) in &objects {
            writeln!(out, "{}/{}", kind.printed(), text(object, "/metadata/name"))?;
        }
        return Ok(code);
    }
    let one = matches!(targets, [Target::One(..)]);
    let objects: Vec<Value> = objects
        .into_iter()
        .map(|(_, o)| without_managers(o))
        .collect();
    if one && objects.is_empty() {
        return Ok(code);
    }
    let value = match (one, objects.into_iter()) {
        (true, mut objects) => objects.next().unwrap_or(Value::Null),
        (false, objects) => json!({"apiVersion": "v1", "kind": "List",
            "metadata": {"resourceVersion": ""}, "items": objects.collect::<Vec<_>>()}),
    };
    print(&mut out, format, &value)?;
    Ok(code)
}

fn print(out: &mut impl Write, format: &Format, value: &Value) -> anyhow::Result<()> {
    match format {
        Format::Json => write!(out, "{}", json(value))?,
        Format::Yaml => write!(out, "{}", yaml(value))?,
        Format::JsonPath(template) => write!(out, "{}", Template::parse(template)?.render(value))?,
        Format::Name | Format::Table { .. } => {}
    }
    out.flush()?;
    Ok(())
}

async fn watch(
    cluster: &Cluster,
    args: &Get,
    format: &Format,
    targets: &[Target],
) -> anyhow::Result<i32> {
    let [target] = targets else {
        bail!("error: you may only specify a single resource type");
    };
    let kind = kind_of(target);
    // A single object is watched by its name, so that list and watch look alike.
    let args_of_one;
    let (args, target) = match target {
        Target::All(_) => (args, target.clone()),
        Target::One(kind, name) => {
            if cluster
                .find(kind, cluster.namespace(), name)
                .await?
                .is_none()
            {
                // The server's own words for what is missing.
                let url = url(cluster, args, target);
                cluster.send("GET", &url, JSON, None).await?;
            }
            args_of_one = Get {
                field_selector: Some(format!("metadata.name={name}")),
                what: Vec::new(),
                output: None,
                selector: None,
                label_columns: args.label_columns.clone(),
                ..*args
            };
            (&args_of_one, Target::All(kind.clone()))
        }
    };
    let accept = if matches!(format, Format::Table { .. }) {
        TABLE
    } else {
        JSON
    };
    let first = fetch(cluster, args, &target, accept)
        .await?
        .unwrap_or(Value::Null);
    let mut printer = WatchPrinter::new(
        format,
        options(args, *format == Format::Table { wide: true }, kind, false),
        args.no_headers,
    );
    printer.print(kind, &first)?;
    let version = text(&first, "/metadata/resourceVersion").to_string();
    let base = url(cluster, args, &target).replacen("limit=500", "watch=true", 1);
    let mut events = cluster
        .watch(&format!("{base}&resourceVersion={version}"), accept)
        .await?;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => printer.print(kind, &event?["object"])?,
                None => return Ok(0),
            },
            _ = tokio::signal::ctrl_c() => return Ok(130),
        }
    }
}

/// Prints what a watch brings, headings once.
struct WatchPrinter<'a> {
    format: &'a Format,
    options: TableOptions,
    definitions: Vec<Value>,
    columns: Columns,
    headed: bool,
}

impl<'a> WatchPrinter<'a> {
    fn new(format: &'a Format, options: TableOptions, no_headers: bool) -> Self {
        WatchPrinter {
            format,
            options,
            definitions: Vec::new(),
            columns: Columns::default(),
            headed: no_headers,
        }
    }

    fn print(&mut self, kind: &Kind, value: &Value) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if let Format::Table { .. } = self.format {
            let definitions = list(value, "/columnDefinitions");
            if !definitions.is_empty() {
                self.definitions = definitions.to_vec();
            }
            for row in list(value, "/rows") {
                if !std::mem::replace(&mut self.headed, true) {
                    self.columns.push(self.options.headings(&self.definitions));
                }
                self.columns
                    .push(self.options.cells(&self.definitions, row));
            }
            self.columns.flush(&mut out)?;
            return Ok(());
        }
        let items = value.get("items").and_then(Value::as_array);
        let objects: Vec<Value> = items.cloned().unwrap_or_else(|| vec![value.clone()]);
        for mut object in objects {
            object["kind"] = kind.kind.clone().into();
            object["apiVersion"] = kind.api_version().into();
            let object = without_managers(object);
            match self.format {
                Format::Name => writeln!(
                    out,
                    "{}/{}",
                    kind.printed(),
                    text(&object, "/metadata/name")
                )?,
                Format::Yaml => {
                    if std::mem::replace(&mut self.headed, true) {
                        writeln!(out, "---")?;
                    }
                    print(&mut out, self.format, &object)?;
                }
                format => print(&mut out, format, &object)?,
            }
        }
        Ok(())
    }
}
