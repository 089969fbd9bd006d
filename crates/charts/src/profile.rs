//! Install profiles: which components there are, and a few values.

use serde_json::{Value, json};

/// A preset of the command line and the operator.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The name that `profile=` takes.
    pub name: &'static str,
    /// One line for the user.
    pub about: &'static str,
    base: bool,
    pilot: bool,
    cni: bool,
    ztunnel: bool,
    helm_profile: Option<&'static str>,
}

const PROFILES: &[Profile] = &[
    Profile {
        name: "ambient",
        about: "control plane, node agent and node proxy: the mesh without sidecars",
        base: true,
        pilot: true,
        cni: true,
        ztunnel: true,
        helm_profile: Some("ambient"),
    },
    Profile {
        name: "default",
        about: "control plane only",
        base: true,
        pilot: true,
        cni: false,
        ztunnel: false,
        helm_profile: None,
    },
    Profile {
        name: "minimal",
        about: "control plane only",
        base: true,
        pilot: true,
        cni: false,
        ztunnel: false,
        helm_profile: None,
    },
    Profile {
        name: "empty",
        about: "nothing; a start for components chosen one by one",
        base: false,
        pilot: false,
        cni: false,
        ztunnel: false,
        helm_profile: None,
    },
];

/// The profile that is used where none is named.
pub const DEFAULT: &str = "default";

/// There is no profile of this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown profile {name}; there are: {known}")]
pub struct UnknownProfile {
    name: String,
    known: String,
}

/// Finds a profile.
///
/// # Errors
/// When there is none of this name; the error lists those that there are.
pub fn find(name: &str) -> Result<&'static Profile, UnknownProfile> {
    PROFILES
        .iter()
        .find(|p| p.name == name)
        .ok_or_else(|| UnknownProfile {
            name: name.to_owned(),
            known: PROFILES
                .iter()
                .map(|p| p.name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// All profiles.
pub fn all() -> &'static [Profile] {
    PROFILES
}

impl Profile {
    /// The profile as the `spec` of an `IstioOperator`, which the user's settings are put on.
    pub fn spec(&self) -> Value {
        let mut values = json!({});
        if let Some(helm_profile) = self.helm_profile {
            values["profile"] = json!(helm_profile);
        }
        json!({
            "components": {
                "base": {"enabled": self.base},
                "pilot": {"enabled": self.pilot},
                "cni": {"enabled": self.cni},
                "ztunnel": {"enabled": self.ztunnel},
            },
            "values": values,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_list_the_known_ones() {
        assert_eq!(
            find("ambient").expect("ambient").spec()["values"]["profile"],
            "ambient"
        );
        let error = find("ambiant").expect_err("unknown").to_string();
        assert_eq!(
            error,
            "unknown profile ambiant; there are: ambient, default, minimal, empty"
        );
    }
}
