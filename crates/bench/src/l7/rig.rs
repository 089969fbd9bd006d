//! A running waypoint between a client and a backend.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ambit_testkit::{Network, Node, Pod, Process, TestCa, wait_for};
use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::generator::OPEN;
use super::places::{HBONE, ISSUER, identity};
use super::variant::Variant;
use super::{ambit, envoy};
use crate::load::Outcome;

const STARTING: Duration = Duration::from_secs(30);
/// How long many connections take to open.
const OPENING: Duration = Duration::from_secs(240);
const DAY: u64 = 24 * 3600;

/// A waypoint's program.
pub enum Program {
    /// Ambit's.
    Ambit(PathBuf),
    /// Envoy.
    Envoy(PathBuf),
}

impl Program {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ambit(_) => "ambit",
            Self::Envoy(_) => "envoy",
        }
    }
}

/// Who signs tokens.
pub struct Tokens {
    /// Its keys as a JSON Web Key Set.
    pub keys: Value,
    /// A token that lets pass.
    pub token: String,
}

/// See the module's description.
pub struct Rig {
    name: &'static str,
    variant: Variant,
    client: Pod,
    waypoint: (Process, SocketAddr),
    files: TempDir,
    token: String,
    _backend: Process,
    /// Namespaces live as long as these.
    _network: (Network, Node, [Pod; 2]),
}

impl Rig {
    /// Brings it up, and shows that it works.
    pub fn start(program: &Program, variant: Variant) -> Result<Self> {
        let network = Network::new("waypoint")?;
        let node = network.node()?;
        let (client, middle, server) = (
            node.pod("client")?,
            node.pod("waypoint")?,
            node.pod("server")?,
        );
        let files = tempfile::tempdir()?;
        certificates(files.path())?;
        let tokens = tokens()?;
        let own = std::env::current_exe()?;
        let mut command = server.namespace().command(&own);
        command.args(["l7-serve", "--files"]).arg(files.path());
        let mut backend = Process::start(&mut command)?;
        backend.wait_for_output("serving", STARTING)?;
        let place = Place {
            pod: &middle,
            files: files.path(),
            server: server.ip(),
            variant,
            tokens: &tokens,
        };
        let waypoint = match program {
            Program::Ambit(program) => ambit::start(program, &place)?,
            Program::Envoy(program) => envoy::start(program, &place)?,
        };
        let rig = Self {
            name: program.name(),
            variant,
            waypoint: (waypoint, SocketAddr::new(middle.ip(), HBONE)),
            client,
            files,
            token: tokens.token,
            _backend: backend,
            _network: (network, node, [middle, server]),
        };
        rig.wait_until_it_answers()?;
        Ok(rig)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The waypoint's process id.
    pub fn waypoint(&self) -> u32 {
        self.waypoint.0.id()
    }

    /// Runs the load generator in the client's pod.
    pub fn load(&self, connections: usize, seconds: f64, rate: Option<f64>) -> Result<Outcome> {
        let mut command = self.generator(connections, seconds, rate)?;
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("{}", self.failed(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("the load gave no result")
    }

    /// Runs the load generator, and looks at something when all its connections are open and the
    /// load is at its middle.
    pub fn during<T>(
        &self,
        connections: usize,
        seconds: f64,
        look: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Outcome)> {
        let mut command = self.generator(connections, seconds, None)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut running = Process::start(&mut command)?;
        running.wait_for_output(OPEN, OPENING)?;
        std::thread::sleep(Duration::from_secs_f64(seconds / 2.0));
        let seen = look()?;
        let status = running.wait(OPENING)?;
        let output = running.output();
        ensure!(status.success(), "{}", self.failed(output.as_bytes()));
        let outcome = output.lines().find(|line| line.starts_with('{'));
        let outcome = serde_json::from_str(outcome.unwrap_or_default());
        Ok((seen, outcome.context("the load gave no result")?))
    }

    fn generator(&self, connections: usize, seconds: f64, rate: Option<f64>) -> Result<Command> {
        let own = std::env::current_exe()?;
        let mut command = self.client.namespace().command(own);
        command
            .args(["l7-load", &self.waypoint.1.to_string(), "--files"])
            .arg(self.files.path())
            .args(["--connections", &connections.to_string()])
            .args(["--seconds", &seconds.to_string()])
            .args(["--paths", &self.variant.routes().to_string()]);
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        if self.variant.http2() {
            command.arg("--http2");
        }
        if self.variant == Variant::Policy {
            command.args(["--token", &self.token]);
        }
        Ok(command)
    }

    /// Why a load failed, with the end of the waypoint's log.
    fn failed(&self, why: &[u8]) -> String {
        let log = self.waypoint.0.output();
        let end = log.len().saturating_sub(4000);
        let end = (end..log.len()).find(|at| log.is_char_boundary(*at));
        let tail = &log[end.unwrap_or(log.len())..];
        let why = String::from_utf8_lossy(why);
        format!("the load on {self} failed: {}\n{tail}", why.trim())
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        let answers = || self.load(1, 0.05, None).ok().filter(|o| o.requests > 0);
        match wait_for("an answer", STARTING, answers) {
            Ok(_) => Ok(()),
            // Once more, for the reason.
            Err(e) => self.load(1, 0.05, None).and(Err(e)),
        }
    }
}

impl fmt::Display for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.name, self.variant)
    }
}

/// Where a waypoint is to stand, and for whom.
pub struct Place<'a> {
    pub pod: &'a Pod,
    pub files: &'a Path,
    pub server: std::net::IpAddr,
    pub variant: Variant,
    pub tokens: &'a Tokens,
}

/// Certificates for all parts, and the authority itself, for a waypoint that asks it.
fn certificates(files: &Path) -> Result<()> {
    let ca = TestCa::new("waypoints")?;
    std::fs::write(files.join("ca-cert.pem"), ca.root())?;
    std::fs::write(files.join("ca-key.pem"), ca.key())?;
    std::fs::write(files.join("roots"), ca.root())?;
    for name in ["client", "waypoint", "server"] {
        let issued = ca.issue(&identity(name).to_string())?;
        std::fs::write(files.join(format!("{name}.chain")), issued.chain)?;
        std::fs::write(files.join(format!("{name}.key")), issued.key)?;
    }
    Ok(())
}

fn tokens() -> Result<Tokens> {
    use base64::Engine as _;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    // An uncompressed point: 4, x, y.
    let point = key.public_key_raw();
    let part = |range: std::ops::Range<usize>| {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&point[range])
    };
    let keys = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "use": "sig",
        "x": part(1..33), "y": part(33..65),
    }]});
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("k".to_owned());
    let claims = json!({
        "iss": ISSUER,
        "sub": "somebody",
        "group": "shoppers",
        "exp": jsonwebtoken::get_current_timestamp() + DAY,
    });
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes())?;
    let token = jsonwebtoken::encode(&header, &claims, &key)?;
    Ok(Tokens { keys, token })
}
