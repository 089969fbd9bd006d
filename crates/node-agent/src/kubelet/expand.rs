//! `$(NAME)` references in commands, arguments and environment values. Pure.

/// Replaces `$(NAME)` by what `lookup` knows. `$$` is a literal `$`; a reference to an unknown name,
/// and a `$` that starts neither form, stay as they are (Kubernetes API, `Container.command`).
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(remaining) = after.strip_prefix('$') {
            output.push('$');
            rest = remaining;
        } else if let Some((name, remaining)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => output.push_str(&value),
                None => {
                    output.push_str("$(");
                    output.push_str(name);
                    output.push(')');
                }
            }
            rest = remaining;
        } else {
            output.push('$');
            rest = after;
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn references() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_string());
        for (text, expected) in [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$(A)$(A)", "11"),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
