//! `meta.k8s.io` Tables: what `kubectl get` prints is decided here.

mod cluster;
mod columns;
mod config;
mod custom;
mod network;
mod pods;
mod text;
mod workloads;

pub use columns::{Column, columns_of};
pub use custom::JsonPath;

use crate::{http::View, object::Object, registry::Resource, views};
use serde_json::{Value, json};
use std::sync::Arc;

/// Makes tables of one resource. A stream of tables has the headings only in its first one.
#[derive(Debug)]
pub struct Tables {
    columns: Vec<Column>,
    resource: Arc<Resource>,
    version: &'static str,
    include: Include,
    headed: bool,
}

/// What a row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

/// The table of a scale, which is no object of its own.
pub fn of_scale(scale: &Value, version: &str) -> Value {
    let columns = workloads::scales();
    let headings: Vec<Value> = columns.iter().map(Column::heading).collect();
    let cells: Vec<Value> = columns.iter().map(|c| c.cell(scale)).collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": {"resourceVersion": scale["metadata"]["resourceVersion"]},
        "columnDefinitions": headings,
        "rows": [{"cells": cells, "object": views::metadata(scale, version)}],
    })
}

impl Tables {
    /// For a resource; `include` is the parameter `includeObject`.
    pub fn new(resource: &Arc<Resource>, view: View, include: Option<&str>) -> Self {
        let version = match view {
            View::Table(version) | View::Metadata(version) => version,
            View::Object => "v1",
        };
        let include = match include {
            Some("Object") => Include::Object,
            Some("None") => Include::Nothing,
            _ => Include::Metadata,
        };
        // Watches that are no tables make no columns.
        let columns = match view {
            View::Table(_) => columns_of(resource),
            _ => Vec::new(),
        };
        Tables {
            columns,
            resource: resource.clone(),
            version,
            include,
            headed: false,
        }
    }

    /// A table of all objects.
    pub fn table(&self, objects: &[Arc<Object>], metadata: &Value) -> Value {
        let rows: Vec<Value> = objects.iter().map(|o| self.row(o)).collect();
        let headings: Vec<Value> = self.columns.iter().map(Column::heading).collect();
        json!({
            "kind": "Table", "apiVersion": format!("meta.k8s.io/{}", self.version),
            "metadata": metadata, "columnDefinitions": headings, "rows": rows,
        })
    }

    /// The table of one event of a watch.
    pub fn event(&mut self, object: &Arc<Object>) -> Value {
        let metadata = json!({"resourceVersion": object.revision().to_string()});
        let mut table = self.table(std::slice::from_ref(object), &metadata);
        if std::mem::replace(&mut self.headed, true)
            && let Some(map) = table.as_object_mut()
        {
            map.insert("columnDefinitions".into(), json!([]));
        }
        table
    }

    /// The table of a bookmark: no rows that would be printed.
    pub fn bookmark(&self, metadata: &Value) -> Value {
        json!({
            "kind": "Table", "apiVersion": format!("meta.k8s.io/{}", self.version),
            "metadata": metadata, "columnDefinitions": [], "rows": [],
        })
    }

    fn row(&self, object: &Arc<Object>) -> Value {
        let value = views::present(&self.resource, object.value());
        let cells: Vec<Value> = self.columns.iter().map(|c| c.cell(&value)).collect();
        let mut row = json!({ "cells": cells });
        let shown = match self.include {
            Include::Nothing => return row,
            Include::Metadata => views::metadata(&value, self.version),
            Include::Object => value.into_owned(),
        };
        if let Some(map) = row.as_object_mut() {
            map.insert("object".into(), shown);
        }
        row
    }
}
