//! What this program is: version, revision, compiler. Shown by `version`, `/config_dump` and the
//! `istio_build` gauge.

use serde::Serialize;

/// Facts fixed at compile time. Serializes with the keys of Istio's `version` object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    /// Version of the workspace, for example `0.1.0`.
    pub version: &'static str,
    /// Source revision, or `unknown` outside release builds (so that a commit recompiles nothing).
    pub git_revision: &'static str,
    /// Version of the compiler.
    pub rust_version: &'static str,
    /// Cargo profile family: `debug` or `release`.
    pub build_profile: &'static str,
    /// `Clean`, `Modified`, or `unknown`.
    pub build_status: &'static str,
    /// The Istio version whose interfaces this program speaks.
    pub istio_version: &'static str,
    /// Name of the TLS provider.
    pub crypto_provider: &'static str,
}

/// The facts of this build.
pub const fn build_info() -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION"),
        git_revision: or_unknown(option_env!("AMBIT_GIT_REVISION")),
        rust_version: or_unknown(option_env!("AMBIT_RUSTC_VERSION")),
        build_profile: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        build_status: or_unknown(option_env!("AMBIT_BUILD_STATUS")),
        istio_version: "1.29.0",
        crypto_provider: "aws-lc-rs",
    }
}

const fn or_unknown(value: Option<&'static str>) -> &'static str {
    match value {
        Some(value) => value,
        None => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serializes_with_the_keys_that_istioctl_reads() {
        let value = serde_json::to_value(build_info()).unwrap();
        let keys: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            keys,
            [
                "version",
                "gitRevision",
                "rustVersion",
                "buildProfile",
                "buildStatus",
                "istioVersion",
                "cryptoProvider"
            ]
        );
    }
}
