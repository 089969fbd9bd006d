//! The types of the checker, and how JSON names become CEL identifiers.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// What an expression may hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Anything: checked when it runs.
    Dyn,
    /// null.
    Null,
    /// true or false.
    Bool,
    /// Signed whole number.
    Int,
    /// Unsigned whole number.
    Uint,
    /// Any number.
    Double,
    /// Text.
    String,
    /// Octets.
    Bytes,
    /// A length of time.
    Duration,
    /// A point in time.
    Timestamp,
    /// A list of one type.
    List(Arc<Type>),
    /// A map from text to one type.
    Map(Arc<Type>),
    /// An object with these fields (names escaped) and no others.
    Object(Arc<BTreeMap<String, Type>>),
    /// A value that may be missing.
    Optional(Arc<Type>),
}

impl Type {
    /// A list.
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    /// A map.
    pub fn map(value: Type) -> Type {
        Type::Map(Arc::new(value))
    }

    /// A value that may be missing.
    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// Whether one can stand where the other is expected.
    pub fn fits(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Dyn | Type::Null, _) | (_, Type::Dyn | Type::Null) => true,
            (Type::List(a), Type::List(b))
            | (Type::Map(a), Type::Map(b))
            | (Type::Optional(a), Type::Optional(b)) => a.fits(b),
            // Map literals are compared with objects only by tests of their own.
            (Type::Object(_), Type::Map(_)) | (Type::Map(_), Type::Object(_)) => true,
            (Type::Object(a), Type::Object(b)) => Arc::ptr_eq(a, b) || a == b,
            (a, b) => a == b,
        }
    }

    /// The more exact one of two types that fit.
    pub fn join(self, other: Type) -> Type {
        match self {
            Type::Dyn | Type::Null => other,
            _ => self,
        }
    }

    /// Whether it is a number, or may be one.
    pub fn numeric(&self) -> bool {
        matches!(self, Type::Dyn | Type::Int | Type::Uint | Type::Double)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Duration => f.write_str("google.protobuf.Duration"),
            Type::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(value) => write!(f, "map(string, {value})"),
            Type::Object(_) => f.write_str("object"),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
        }
    }
}

/// Words that no identifier can be.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The identifier under which a JSON name is known in CEL; None for a name that cannot be written
/// (Kubernetes hides such fields).
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '_' if rest.next_if_eq(&'_').is_some() => escaped.push_str("__underscores__"),
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => escaped.push(c),
            _ => return None,
        }
    }
    Some(escaped)
}
