//! Query parameters of the endpoint. Pure.

use percent_encoding::percent_decode_str;

/// Decoded parameters in order.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string; malformed escapes stay as they are.
    pub(super) fn parse(text: Option<&str>) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = text
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    /// The first value of a name, in any of its spellings.
    pub(super) fn get(&self, names: &[&str]) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| names.contains(&key.as_str()))
            .map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// A flag: `1`, `true`, or present without value.
    pub(super) fn flag(&self, names: &[&str]) -> bool {
        self.get(names)
            .is_some_and(|value| matches!(value, "" | "1" | "t" | "T" | "true" | "True" | "TRUE"))
    }

    /// A number, or an error naming the parameter.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        match self.get(&[name]) {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| format!("{name}: {text:?} is not a valid number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse(Some(
            "&command=sh&command=-c&command=echo+a%26b&tty=1&input=true&tailLines=x&stdin=0",
        ));
        assert_eq!(query.all("command"), ["sh", "-c", "echo a&b"]);
        assert!(
            query.flag(&["tty"])
                && query.flag(&["input"])
                && !query.flag(&["stdin"])
                && !query.flag(&["none"])
        );
        assert!(query.number::<usize>("tailLines").is_err());
        assert_eq!(query.number::<usize>("limitBytes"), Ok(None));
    }
}
