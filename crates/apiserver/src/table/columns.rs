//! Which columns each kind has.

use super::{custom, text};
use crate::{
    object,
    registry::{Resource, Schema},
};
use serde_json::{Value, json};
use std::fmt;

/// Computes a cell.
pub type Cell = Box<dyn Fn(&Value) -> Value + Send + Sync>;

/// One column of a table.
pub struct Column {
    /// Heading as in the definition; kubectl shows it in capitals.
    pub name: String,
    /// string, integer, number, boolean, date.
    pub kind: String,
    /// `name` for the column of names.
    pub format: String,
    /// For people.
    pub description: String,
    /// 0 is always shown, others with `-o wide`.
    pub priority: i64,
    cell: Cell,
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Column").field("name", &self.name).finish()
    }
}

impl Column {
    /// A column of text that is always shown.
    pub fn new(
        name: &str,
        kind: &str,
        cell: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        Column {
            name: name.into(),
            kind: kind.into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            cell: Box::new(cell),
        }
    }

    /// Shown only with `-o wide`.
    pub fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// The column's definition.
    pub fn heading(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format,
               "description": self.description, "priority": self.priority})
    }

    /// The cell of an object.
    pub fn cell(&self, value: &Value) -> Value {
        (self.cell)(value)
    }
}

/// `Name`.
pub fn name() -> Column {
    let mut column = Column::new("Name", "string", |o| object::name(o).into());
    column.format = "name".into();
    column
}

/// `Age`.
pub fn age() -> Column {
    Column::new("Age", "string", |o| {
        text::age(object::text(o, "/metadata/creationTimestamp")).into()
    })
}

/// The columns of a resource.
pub fn columns_of(resource: &Resource) -> Vec<Column> {
    match &resource.schema {
        Schema::Custom(version) => custom::columns(version),
        Schema::Builtin(_) => vec![name(), age()],
    }
}
