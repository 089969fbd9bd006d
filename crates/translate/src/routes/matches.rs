//! Conditions on headers, parameters and texts.

use ambit_kube_api::gateway_api::filters::NamedMatch;
use ambit_model::route::{Field, Pattern, TextMatch};

use super::Unresolved;

/// A regular expression.
///
/// # Errors
/// It is none.
pub(super) fn pattern(text: &str) -> Result<Pattern, Unresolved> {
    Pattern::new(text).map_err(|e| Unresolved::new("InvalidConfiguration", e.to_string()))
}

/// Conditions by name. Of several for one name, the first holds, as the specification says.
///
/// # Errors
/// One cannot be understood.
pub(super) fn fields(list: &[NamedMatch], lower: bool) -> Result<Vec<Field>, Unresolved> {
    let mut fields: Vec<Field> = Vec::with_capacity(list.len());
    for named in list {
        let name = match lower {
            true => named.name.to_ascii_lowercase(),
            false => named.name.clone(),
        };
        if fields.iter().any(|field| *field.name == *name) {
            continue;
        }
        let value = match named.type_.as_deref().unwrap_or("Exact") {
            "Exact" => TextMatch::Exact(named.value.as_str().into()),
            "RegularExpression" => TextMatch::Regex(pattern(&named.value)?),
            other => {
                let message = format!("unsupported type {other:?} of a match");
                return Err(Unresolved::new("InvalidConfiguration", message));
            }
        };
        fields.push(Field {
            name: name.into(),
            value,
            negated: false,
        });
    }
    Ok(fields)
}
