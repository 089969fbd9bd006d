//! A contender: two pods on two nodes, an application in one, and what is between them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ambit_testkit::{Capture, Network, Node, Pod, Process, wait_for};
use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

use crate::cpu;
use crate::load::{Outcome, Streamed};
use crate::mesh::{Mesh, Proxy};
use crate::server::{CLOSE, ECHO, SINK};

pub const STARTING: Duration = Duration::from_secs(20);

/// What stands between the pods.
pub enum Between {
    /// Nothing.
    Nothing,
    /// Tunnel ends without proxies around them.
    Relays,
    /// A pair of node proxies of this program.
    Proxies(Program),
}

/// A program with its first arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its path.
    pub program: PathBuf,
    /// What comes first.
    pub arguments: Vec<String>,
}

impl Program {
    /// A node proxy, with the arguments that its image has.
    pub fn node_proxy(program: PathBuf) -> Self {
        Self {
            program,
            arguments: vec!["proxy".to_owned(), "ztunnel".to_owned()],
        }
    }
}

/// A running contender.
pub struct Contender {
    name: &'static str,
    client: Pod,
    server: Pod,
    nodes: [Node; 2],
    mesh: Option<Mesh>,
    resident: Option<f64>,
    _application: Process,
    _network: Network,
}

impl Contender {
    /// Brings it up and shows that it works.
    pub fn start(name: &'static str, between: Between) -> Result<Self> {
        let network = Network::new(name)?;
        let nodes = [network.node()?, network.node()?];
        let (client, server) = (nodes[0].pod("client")?, nodes[1].pod("server")?);
        let own = std::env::current_exe()?;
        let mut application = Process::start(server.namespace().command(&own).arg("serve"))?;
        application.wait_for_output("serving", STARTING)?;
        let ends = [
            Proxy {
                node: &nodes[0],
                pod: &client,
                name: "client",
            },
            Proxy {
                node: &nodes[1],
                pod: &server,
                name: "server",
            },
        ];
        let mesh = match between {
            Between::Nothing => None,
            Between::Relays => Some(Mesh::relays(ends)?),
            Between::Proxies(program) => Some(Mesh::start(&network, ends, &program)?),
        };
        let resident = mesh.as_ref().map(Mesh::resident_mb).transpose()?;
        let contender = Self {
            name,
            client,
            server,
            nodes,
            mesh,
            resident,
            _application: application,
            _network: network,
        };
        contender.wait_until_it_answers()?;
        contender.check_path()?;
        Ok(contender)
    }

    /// Its name in the report.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Process ids of its proxies.
    pub fn proxies(&self) -> Vec<u32> {
        self.mesh.as_ref().map(Mesh::processes).unwrap_or_default()
    }

    /// Resident memory of one proxy before any traffic, MB.
    pub fn resident_idle(&self) -> Option<f64> {
        self.resident
    }

    /// Runs the load generator in the client pod.
    pub fn load(&self, port: u16, arguments: &[String], seconds: f64) -> Result<Outcome> {
        let seconds = seconds.to_string();
        let target = self.target(port).to_string();
        let mut all = vec!["load", &target, "--seconds", &seconds];
        all.extend(arguments.iter().map(String::as_str));
        self.in_client(&all)
    }

    /// Runs one stream from the client pod.
    pub fn stream(&self, port: u16, seconds: f64) -> Result<Streamed> {
        self.in_client(&[
            "stream",
            &self.target(port).to_string(),
            &seconds.to_string(),
        ])
    }

    fn target(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.server.ip(), port)
    }

    fn in_client<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let own = std::env::current_exe()?;
        let mut command = self.client.namespace().command(own);
        let output = command.args(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!(
                "the load on {} failed: {}{}",
                self.name,
                why.trim(),
                self.proxy_logs()
            );
        }
        serde_json::from_slice(&output.stdout).context("the load gave no result")
    }

    fn proxy_logs(&self) -> String {
        self.mesh.as_ref().map(Mesh::last_lines).unwrap_or_default()
    }

    /// A proxy that is ready may still fetch certificates at the first connection.
    fn wait_until_it_answers(&self) -> Result<()> {
        let one = ["--connections", "1"].map(str::to_owned);
        let answers = || self.load(ECHO, &one, 0.05).ok().filter(|o| o.requests > 0);
        match wait_for("an answer", STARTING, answers) {
            Ok(_) => Ok(()),
            // Once more, for the reason.
            Err(e) => self.load(ECHO, &one, 0.05).and(Err(e)),
        }
    }

    /// Looks at the link between the nodes: with proxies, connections go to the tunnel's port, all
    /// that passes is TLS, and nothing goes to the application's own port; without, it does.
    pub fn check_path(&self) -> Result<()> {
        let capture = Capture::start(self.nodes[0].namespace(), "eth0")?;
        let coming = ["--connections", "1", "--reconnect"].map(str::to_owned);
        // On a machine that does much else, nothing may be answered within a short time.
        let answered = || {
            self.load(CLOSE, &coming, 0.05)
                .ok()
                .filter(|outcome| outcome.requests > 0)
        };
        wait_for("an answered request", STARTING, answered)?;
        let packets = capture.stop()?;
        let direct = [SINK, ECHO, CLOSE]
            .iter()
            .any(|port| packets.tcp_payload_bytes(*port) > 0);
        if self.mesh.is_none() {
            ensure!(direct, "the path without proxies is not direct");
            return Ok(());
        }
        ensure!(
            !direct,
            "{} does not capture: the application's port is on the link",
            self.name
        );
        packets
            .only_tls_on_port(15008)
            .with_context(|| format!("{} is no tunnel", self.name))
    }

    /// Takes resident memory again and checks the path again, after all rounds.
    pub fn finish(self) -> Result<()> {
        self.check_path()?;
        let resident = self
            .proxies()
            .first()
            .map(|pid| cpu::resident_mb(*pid))
            .transpose()?;
        if let Some(resident) = resident {
            eprintln!(
                "{}: {resident:.1} MB resident at the source after the load",
                self.name
            );
        }
        Ok(())
    }
}
