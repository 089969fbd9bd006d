//! The options of lists and watches: read from the query, refused where they make no sense.
//!
//! The rules are those of `ValidateListOptions` of Kubernetes, the words too.

use crate::{
    request::Query,
    status::{ApiError, Cause, Result},
};
use serde_json::Value;

const EXACT: &str = "Exact";
const NOT_OLDER: &str = "NotOlderThan";

/// What `resourceVersion` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The newest state.
    Any,
    /// A state of at least this revision.
    AtLeast(u64),
    /// The state of this revision.
    Exact(u64),
}

/// Options of a list or a watch, beside its selectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListOptions {
    /// Which state.
    pub version: Version,
    /// Most objects of a page, of lists.
    pub limit: Option<usize>,
    /// Where a list goes on, as the server has written it.
    pub from: Option<String>,
    /// How long a watch lasts, seconds.
    pub timeout: Option<u64>,
    /// Whether a watch begins with the present state: as the client says, if it does.
    pub initial: Option<bool>,
    /// Whether a watch says how far it is.
    pub bookmarks: bool,
}

impl ListOptions {
    /// Reads and checks them.
    ///
    /// # Errors
    /// A number that is none (400), options that contradict each other (422).
    pub fn parse(query: &Query, watch: bool) -> Result<Self> {
        let limit = number(query, "limit")?.and_then(|n| usize::try_from(n).ok());
        let timeout = number(query, "timeoutSeconds")?.and_then(|n| u64::try_from(n).ok());
        let initial = query.get("sendInitialEvents");
        let options = ListOptions {
            version: Version::Any,
            limit: limit.filter(|n| *n > 0),
            from: query.get("continue").map(str::to_string),
            timeout: timeout.filter(|n| *n > 0),
            initial: initial.map(|_| query.flag("sendInitialEvents")),
            bookmarks: query.flag("allowWatchBookmarks"),
        };
        let matching = query.get("resourceVersionMatch").unwrap_or_default();
        let version = query.get("resourceVersion").unwrap_or_default();
        let causes = match watch {
            true => options.wrong_for_watch(matching),
            false => options.wrong_for_list(matching, version),
        };
        if !causes.is_empty() {
            let error = ApiError::invalid("meta.k8s.io", "ListOptions", "", causes);
            return Err(error);
        }
        if options.from.is_some() && !matches!(version, "" | "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let version = match revision(version) {
            Ok(0) => Version::Any,
            Ok(version) if matching == EXACT => Version::Exact(version),
            Ok(version) => Version::AtLeast(version),
            Err(why) if watch => return Err(ApiError::odd(why)),
            Err(why) => {
                let why = format!("invalid resource version: {why}");
                return Err(ApiError::bad_request(why));
            }
        };
        Ok(ListOptions { version, ..options })
    }

    fn wrong_for_watch(&self, matching: &str) -> Vec<Cause> {
        let forbidden = |why| Cause::forbidden("resourceVersionMatch", why);
        let mut causes = Vec::new();
        if self.initial.is_some() && matching != NOT_OLDER {
            causes.push(forbidden(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if matching.is_empty() {
            return causes;
        }
        if self.initial.is_none() {
            causes.push(forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if matching != NOT_OLDER {
            let value = Value::from(matching);
            let cause = Cause::not_supported("resourceVersionMatch", &value, &[NOT_OLDER]);
            causes.push(cause);
        }
        if self.from.is_some() {
            causes.push(forbidden(
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        causes
    }

    fn wrong_for_list(&self, matching: &str, version: &str) -> Vec<Cause> {
        let forbidden = |why| Cause::forbidden("resourceVersionMatch", why);
        let mut causes = Vec::new();
        if !matching.is_empty() {
            if version.is_empty() {
                causes.push(forbidden(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if self.from.is_some() {
                causes.push(forbidden(
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if matching != EXACT && matching != NOT_OLDER {
                let (value, allowed) = (Value::from(matching), [EXACT, NOT_OLDER, ""]);
                causes.push(Cause::not_supported(
                    "resourceVersionMatch",
                    &value,
                    &allowed,
                ));
            }
            if matching == EXACT && version == "0" {
                causes.push(forbidden(
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if self.initial.is_some() {
            causes.push(Cause::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            ));
        }
        causes
    }
}

/// A whole number of the query.
///
/// # Errors
/// It is none, in the words of Go.
pub fn number(query: &Query, name: &str) -> Result<Option<i64>> {
    let Some(text) = query.get(name) else {
        return Ok(None);
    };
    let number = text.parse().map_err(|_| {
        let why = format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
        ApiError::bad_request(why)
    })?;
    Ok(Some(number))
}

/// A `resourceVersion`; "" is 0.
///
/// # Errors
/// It is no number, in the words of Go.
pub fn revision(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        )
    })
}

/// Refuses a revision that has not been reached yet. The real server waits three seconds for it
/// before it says so: one of its copies may be behind. Here there is one.
///
/// # Errors
/// It is in the future (504).
pub fn reached(asked: u64, now: u64) -> Result<()> {
    match asked > now {
        true => Err(ApiError::future_version(asked, now)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str, watch: bool) -> Result<ListOptions> {
        ListOptions::parse(&Query::parse(Some(query)), watch)
    }

    #[test]
    fn versions() {
        let version = |query: &str| parse(query, false).unwrap().version;
        assert_eq!(version(""), Version::Any);
        assert_eq!(version("resourceVersion=0"), Version::Any);
        assert_eq!(version("resourceVersion=7"), Version::AtLeast(7));
        let exact = "resourceVersion=7&resourceVersionMatch=Exact";
        assert_eq!(version(exact), Version::Exact(7));
        assert_eq!(parse("resourceVersion=x", false).unwrap_err().code, 400);
        assert_eq!(parse("resourceVersion=x", true).unwrap_err().code, 500);
        assert!(reached(7, 7).is_ok());
        assert_eq!(reached(8, 7).unwrap_err().code, 504);
    }

    #[test]
    fn what_makes_no_sense() {
        for (query, watch, code) in [
            ("limit=x", false, 400),
            ("timeoutSeconds=x", true, 400),
            ("resourceVersionMatch=Exact", false, 422),
            (
                "resourceVersion=1&resourceVersionMatch=Sometimes",
                false,
                422,
            ),
            ("sendInitialEvents=true", false, 422),
            ("sendInitialEvents=false", true, 422),
            ("resourceVersionMatch=NotOlderThan", true, 422),
            ("continue=x&resourceVersion=5", false, 400),
        ] {
            assert_eq!(parse(query, watch).unwrap_err().code, code, "{query}");
        }
        let quiet = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
        assert_eq!(parse(quiet, true).unwrap().initial, Some(false));
        assert_eq!(parse("limit=-1", false).unwrap().limit, None);
    }
}
