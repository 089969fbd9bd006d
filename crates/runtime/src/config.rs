//! Reading settings: every value has an origin, and every error names the setting.
//!
//! Settings come from a source of strings (the process environment, or a map in tests), so that a
//! role's typed configuration is built and tested without touching the environment. What was read
//! is remembered for the admin port; secrets are not.

mod duration;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

pub use duration::{ParseDurationError, parse_duration};

/// A setting that has no usable value. The process does not start with one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The value does not parse.
    #[error("{name}={value:?} is not valid: {reason}; correct or unset {name}")]
    Invalid {
        /// Name of the variable.
        name: String,
        /// What it was set to.
        value: String,
        /// Why that does not do.
        reason: String,
    },
    /// The value is needed and there is none.
    #[error("{name} is not set: {reason}")]
    Missing {
        /// Name of the variable.
        name: String,
        /// Why it is needed.
        reason: String,
    },
    /// Settings that exclude each other, or a file that does not do.
    #[error("{0}")]
    Conflict(String),
}

/// Where the value of a setting came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A command line flag.
    Flag,
    /// The environment.
    Environment,
    /// A configuration file.
    File,
    /// Built in.
    Default,
}

/// A setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// The value as text; `***` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// The source of settings, and the record of what was taken from it.
#[derive(Debug, Default)]
pub struct Env {
    variables: BTreeMap<String, String>,
    effective: Mutex<BTreeMap<String, Effective>>,
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        Self {
            variables,
            effective: Mutex::default(),
        }
    }
}

impl Env {
    /// The environment of the process. Variables that are not UTF-8 do not exist for us.
    pub fn process() -> Self {
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect()
    }

    /// The text of a variable; empty text counts as set.
    pub fn text(&self, name: &str) -> Option<String> {
        let value = self.variables.get(name)?;
        self.note(name, value, Origin::Environment);
        Some(value.clone())
    }

    /// The text of a variable that is set and not empty.
    pub fn non_empty(&self, name: &str) -> Option<String> {
        self.text(name).filter(|value| !value.is_empty())
    }

    /// The text of a variable, or a default.
    pub fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.note(name, default, Origin::Default);
            default.to_owned()
        })
    }

    /// A secret: used, but shown as `***` among the effective values.
    pub fn secret(&self, name: &str) -> Option<String> {
        let value = self.variables.get(name)?;
        self.note(name, "***", Origin::Environment);
        Some(value.clone())
    }

    /// A variable that must be set; `reason` says what it is needed for.
    pub fn required(&self, name: &str, reason: &str) -> Result<String, ConfigError> {
        self.non_empty(name).ok_or_else(|| ConfigError::Missing {
            name: name.to_owned(),
            reason: reason.to_owned(),
        })
    }

    /// A value of any type that parses from text, if the variable is set and not empty.
    pub fn parsed<T>(&self, name: &str) -> Result<Option<T>, ConfigError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.parsed_with(name, |text| {
            text.parse::<T>().map_err(|error| error.to_string())
        })
    }

    /// As [`parsed`](Self::parsed), with a default.
    pub fn parsed_or<T>(&self, name: &str, default: T) -> Result<T, ConfigError>
    where
        T: FromStr + Display,
        T::Err: Display,
    {
        Ok(self.parsed(name)?.unwrap_or_else(|| {
            self.note(name, &default.to_string(), Origin::Default);
            default
        }))
    }

    /// A truth value: `true`, `1`, `t`, `yes`, `on` and their opposites, in any case.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.optional_flag(name)?.unwrap_or_else(|| {
            self.note(
                name,
                if default { "true" } else { "false" },
                Origin::Default,
            );
            default
        }))
    }

    /// A truth value that may be left open.
    pub fn optional_flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        self.parsed_with(name, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" | "yes" | "on" => Ok(true),
            "false" | "0" | "f" | "no" | "off" => Ok(false),
            _ => Err("expected true or false".to_owned()),
        })
    }

    /// A duration such as `5m`, `180s` or `1h30m`.
    pub fn duration(&self, name: &str, default: Duration) -> Result<Duration, ConfigError> {
        Ok(self.optional_duration(name)?.unwrap_or_else(|| {
            self.note(name, &format!("{default:?}"), Origin::Default);
            default
        }))
    }

    /// A duration that may be left open.
    pub fn optional_duration(&self, name: &str) -> Result<Option<Duration>, ConfigError> {
        self.parsed_with(name, |text| {
            parse_duration(text).map_err(|error| error.to_string())
        })
    }

    /// A value parsed by a function whose error is the reason shown to the user.
    pub fn parsed_with<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.non_empty(name) else {
            return Ok(None);
        };
        match parse(value.trim()) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(reason) => Err(ConfigError::Invalid {
                name: name.to_owned(),
                value,
                reason,
            }),
        }
    }

    /// All variables with a prefix, by the rest of their name: `XDS_HEADER_x=v` gives `x` → `v`.
    pub fn with_prefix(&self, prefix: &str) -> BTreeMap<String, String> {
        let named = self.variables.range(prefix.to_owned()..);
        named
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(name, _)| name.len() > prefix.len())
            .map(|(name, value)| (name[prefix.len()..].to_owned(), value.clone()))
            .collect()
    }

    /// Records a value that came from somewhere else than this source.
    pub fn note(&self, name: &str, value: &str, origin: Origin) {
        let effective = Effective {
            value: value.to_owned(),
            origin,
        };
        self.effective.lock().insert(name.to_owned(), effective);
    }

    /// What was read so far, by name.
    pub fn effective(&self) -> BTreeMap<String, Effective> {
        self.effective.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        [
            ("KEEPALIVE_TIME", "180s"),
            ("KEEPALIVE_RETRIES", "nine"),
            ("ENABLE", "True"),
            ("EMPTY", ""),
            ("XDS_HEADER_x-a", "1"),
            ("XDS_HEADER_x-b", "2"),
            ("XDS_HEADER_", "no name"),
            ("TOKEN", "s3cret"),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn parses_and_remembers_origins() {
        let env = env();
        let time = env.duration("KEEPALIVE_TIME", Duration::ZERO).unwrap();
        assert_eq!(time, Duration::from_secs(180));
        assert!(env.flag("ENABLE", false).unwrap());
        assert_eq!(env.parsed::<u16>("EMPTY"), Ok(None));
        assert_eq!(env.parsed_or("PORT", 15008_u16), Ok(15008));
        assert_eq!(env.secret("TOKEN").as_deref(), Some("s3cret"));
        let effective = env.effective();
        assert_eq!(effective["KEEPALIVE_TIME"].origin, Origin::Environment);
        assert_eq!(effective["PORT"].value, "15008");
        assert_eq!(effective["PORT"].origin, Origin::Default);
        assert_eq!(effective["TOKEN"].value, "***");
    }

    #[test]
    fn errors_name_the_variable() {
        let error = env()
            .parsed::<u32>("KEEPALIVE_RETRIES")
            .unwrap_err()
            .to_string();
        assert!(error.contains("KEEPALIVE_RETRIES=\"nine\""), "{error}");
        let error = env()
            .required("PROXY_WORKLOAD_INFO", "dedicated mode")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "PROXY_WORKLOAD_INFO is not set: dedicated mode"
        );
        assert!(env().flag("KEEPALIVE_TIME", true).is_err());
    }

    #[test]
    fn collects_by_prefix() {
        let headers = env().with_prefix("XDS_HEADER_");
        let headers: Vec<_> = headers
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(headers, [("x-a", "1"), ("x-b", "2")]);
    }
}
