//! Settings that both proxies have: their servers, certificates, HTTP/2 and how they end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::config::{ConfigError, Env};
use ambit_transport::hbone::Http2Settings;
use ambit_transport::tls::TlsOptions;
use ambit_wire::ca;
use ambit_wire::credentials::{Credentials, Token};
use ambit_wire::tls::{Roots, Target};

use crate::certs::{CaSource, FakeCa, Source};

const ROOT_FILE: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";

/// A server of the control plane, and who we are to it.
#[derive(Clone, Debug)]
pub struct Server {
    /// The server.
    pub target: Target,
    /// Token and headers.
    pub credentials: Credentials,
}

impl Server {
    /// Reads a server: `prefix` is `XDS` or `CA`, `address` where it is.
    pub fn from_env(
        env: &Env,
        prefix: &str,
        address: &str,
        cluster_id: &str,
    ) -> Result<Self, ConfigError> {
        let roots = Roots::parse(&env.text_or(&format!("{prefix}_ROOT_CA"), ROOT_FILE));
        let alternative = env.non_empty(&format!("ALT_{prefix}_HOSTNAME"));
        let target = Target::new(address, roots, alternative.as_deref()).map_err(|e| {
            ConfigError::Invalid {
                name: format!("{prefix}_ADDRESS"),
                value: address.to_owned(),
                reason: e.to_string(),
            }
        })?;
        let token = match env.secret("AUTH_TOKEN") {
            Some(text) if !text.is_empty() => Token::parse(&text),
            _ if Path::new(TOKEN_FILE).exists() => Token::File(TOKEN_FILE.into()),
            _ => Token::None,
        };
        let headers = env.with_prefix(&format!("{prefix}_HEADER_"));
        let credentials = Credentials {
            token,
            cluster_id: cluster_id.to_owned(),
            headers,
        };
        Ok(Self {
            target,
            credentials,
        })
    }
}

/// A certificate authority of one's own (`FAKE_CA`, `FAKE_CA_DIR`). There is none built in: a key
/// that everybody has would make every proxy that is started with it by mistake open to everybody.
pub fn fake_ca(env: &Env) -> Result<Option<PathBuf>, ConfigError> {
    if !env.flag("FAKE_CA", false)? {
        return Ok(None);
    }
    let reason = "FAKE_CA needs a directory with ca-cert.pem and ca-key.pem";
    env.required("FAKE_CA_DIR", reason)
        .map(|dir| Some(dir.into()))
}

/// Where certificates come from.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The control plane's authority.
    pub ca: Server,
    /// An authority in a directory instead, for tests and benchmarks.
    pub fake_ca: Option<PathBuf>,
    /// How long certificates are to live.
    pub lifetime: Duration,
    /// What connections with them may negotiate.
    pub tls: TlsOptions,
    /// They are asked for in the name of others: of the pods of the node.
    pub impersonate: bool,
}

/// Why there is no source of certificates.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file of an authority of one's own cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// It cannot be used.
    #[error(transparent)]
    Authority(#[from] ca::AuthorityError),
}

impl Certificates {
    /// The source.
    ///
    /// # Errors
    /// An authority of one's own cannot be used.
    pub fn source(&self) -> Result<Arc<dyn Source>, SourceError> {
        let Some(directory) = &self.fake_ca else {
            let client = ca::Client::new(ca::ClientOptions {
                target: self.ca.target.clone(),
                credentials: self.ca.credentials.clone(),
                lifetime: self.lifetime,
                impersonate: self.impersonate,
                cert_signer: None,
            });
            return Ok(Arc::new(CaSource::new(client, self.tls)));
        };
        tracing::warn!(
            "FAKE_CA: this proxy signs its own certificates with {}; nothing it says proves anything",
            directory.display()
        );
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(|error| SourceError::Read { path, error })
        };
        let (certificate, key) = (read("ca-cert.pem")?, read("ca-key.pem")?);
        let authority = ca::Authority::from_pem(&certificate, &key, "", &certificate)?;
        let fake = FakeCa::new(Arc::new(authority), self.lifetime, self.tls);
        Ok(Arc::new(fake))
    }
}

/// `HTTP2_…`, as client and as server.
pub fn http2(env: &Env) -> Result<(Http2Settings, Http2Settings), ConfigError> {
    let (client, server) = (Http2Settings::client(), Http2Settings::server());
    let stream_window = env.parsed_or("HTTP2_STREAM_WINDOW_SIZE", client.stream_window)?;
    let connection_window =
        env.parsed_or("HTTP2_CONNECTION_WINDOW_SIZE", client.connection_window)?;
    let max_frame_size = env.parsed_or("HTTP2_FRAME_SIZE", client.max_frame_size)?;
    for (name, value, range) in [
        (
            "HTTP2_STREAM_WINDOW_SIZE",
            stream_window,
            1..=i32::MAX as u32,
        ),
        (
            "HTTP2_CONNECTION_WINDOW_SIZE",
            connection_window,
            65_535..=i32::MAX as u32,
        ),
        ("HTTP2_FRAME_SIZE", max_frame_size, 16_384..=16_777_215),
    ] {
        if !range.contains(&value) {
            return Err(ConfigError::Invalid {
                name: name.to_owned(),
                value: value.to_string(),
                reason: format!("expected {} to {}", range.start(), range.end()),
            });
        }
    }
    let with = |settings| Http2Settings {
        stream_window,
        connection_window,
        max_frame_size,
        ..settings
    };
    Ok((with(client), with(server)))
}

/// How long connections may take to end: what Kubernetes gives us, less a reserve.
pub fn termination(env: &Env) -> Result<Duration, ConfigError> {
    if let Some(deadline) = env.optional_duration("CONNECTION_TERMINATION_DEADLINE")? {
        return Ok(deadline);
    }
    let seconds = match env.parsed::<u64>("TERMINATION_GRACE_PERIOD_SECONDS")? {
        None => 5,
        Some(n) if n > 10 => n - 5,
        Some(n) => n.saturating_sub(1).max(1),
    };
    Ok(Duration::from_secs(seconds))
}

/// `TLS12_ENABLED`, `COMPLIANCE_POLICY`.
pub fn tls(env: &Env) -> Result<TlsOptions, ConfigError> {
    let policy = env.parsed_with("COMPLIANCE_POLICY", |text| match text {
        "pqc" => Ok(()),
        _ => Err("expected pqc".to_owned()),
    });
    Ok(TlsOptions {
        tls12: env.text("TLS12_ENABLED").as_deref() == Some("true"),
        post_quantum_only: policy?.is_some(),
    })
}
