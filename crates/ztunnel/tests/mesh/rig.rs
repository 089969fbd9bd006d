//! A mesh of two nodes in network namespaces: real node proxies in processes of their own, fed by a
//! discovery server and by node agents in this process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ambit_model::service::{NamespacedHostname, PortMap};
use ambit_model::workload::{NetworkAddress, Protocol};
use ambit_model::{Authorization, Service, Text, Workload};
use ambit_proto::discovery::Node as XdsNode;
use ambit_proto::{security, type_url, workload};
use ambit_testkit::{Namespace, Network, Node, Pod, Process, capture_pod, require_root, wait_for};
use ambit_wire::ca::Authority;
use ambit_wire::tls::{Incoming, ServerCertificate, server_config};
use ambit_wire::xds::{Authenticator, Batch, Logs, Resource, StreamRequest, TypeOptions, service};
use ambit_wire::zds::agent::{Agent, SendError};
use ambit_wire::zds::{self, PeerCheck};
use prost::Message;
use tokio::runtime::Runtime;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The router, as every node reaches it.
const CONTROL: &str = "169.254.2.1:15012";
/// Port of the test application.
pub const APP: u16 = 8080;

/// Nodes, proxies and the control plane.
pub struct Mesh {
    // Fields go in this order: processes before the namespaces that they are in.
    nodes: Vec<Member>,
    logs: Logs,
    runtime: Runtime,
    network: Network,
    directory: tempfile::TempDir,
    next: AtomicU32,
}

struct Member {
    proxy: Process,
    /// The proxy's own pod.
    home: Pod,
    agent: Agent,
    node: Node,
    socket: PathBuf,
}

/// A pod of the mesh.
pub struct Enrolled {
    pub pod: Pod,
    pub zds: zds::Pod,
    pub node: usize,
}

/// Everybody may ask for everything.
struct Anybody;

impl Authenticator for Anybody {
    type Peer = String;

    async fn authenticate(&self, _: &StreamRequest) -> Result<String, tonic::Status> {
        Ok("anybody".into())
    }

    fn check_node(&self, _: &String, _: &XdsNode) -> Result<(), tonic::Status> {
        Ok(())
    }
}

impl Mesh {
    /// Two nodes with their proxies.
    pub fn start(label: &str) -> Self {
        require_root().unwrap();
        let network = Network::new(label).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::self_signed("test", Duration::from_secs(86_400)).unwrap();
        for (file, text) in [
            ("ca-cert.pem", authority.certificate_pem()),
            ("ca-key.pem", authority.key_pem()),
        ] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let logs = Logs::new(&[
            TypeOptions {
                type_url: type_url::ADDRESS,
                versioned: true,
            },
            TypeOptions {
                type_url: type_url::AUTHORIZATION,
                versioned: false,
            },
        ]);
        logs.open();
        serve_discovery(network.router(), &authority, logs.clone());
        let runtime = Runtime::new().unwrap();
        let mut mesh = Self {
            nodes: Vec::new(),
            logs,
            runtime,
            network,
            directory,
            next: AtomicU32::new(0),
        };
        for _ in 0..2 {
            mesh.add_node();
        }
        mesh
    }

    fn add_node(&mut self) {
        let node = self.network.node().unwrap();
        let socket = self
            .directory
            .path()
            .join(format!("zds{}.sock", node.number()));
        let agent = Agent::new();
        let check = PeerCheck::uid(nix::unistd::geteuid().as_raw());
        let serving = {
            let _context = self.runtime.enter();
            agent.listen(&socket, check).unwrap()
        };
        self.runtime.spawn(serving);
        let (proxy, home) = self.proxy(&node, &socket);
        let member = Member {
            proxy,
            home,
            agent,
            node,
            socket,
        };
        wait_for_agent(&member);
        self.nodes.push(member);
    }

    fn proxy(&self, node: &Node, socket: &std::path::Path) -> (Process, Pod) {
        let home = node.pod("ztunnel").unwrap();
        let mut command = home.namespace().command(env!("CARGO_BIN_EXE_ztunnel"));
        command
            .env_clear()
            .env("RUST_LOG", "info,dns=debug,access=debug")
            .env("XDS_ADDRESS", format!("https://{CONTROL}"))
            .env("XDS_ROOT_CA", self.directory.path().join("ca-cert.pem"))
            .env("FAKE_CA", "true")
            .env("FAKE_CA_DIR", self.directory.path())
            .env("NODE_NAME", format!("node{}", node.number()))
            .env("POD_NAME", "ztunnel")
            .env("POD_NAMESPACE", "istio-system")
            .env("INPOD_UDS", socket)
            .env("ZTUNNEL_WORKER_THREADS", "2")
            .env("CONNECTION_TERMINATION_DEADLINE", "1s");
        (Process::start(&mut command).unwrap(), home)
    }

    /// A second proxy on a node, as in an upgrade; the first one is given back.
    pub fn replace_proxy(&mut self, node: usize) -> (Process, Pod) {
        let member = &self.nodes[node];
        let before = *member.agent.connected().borrow();
        let (proxy, home) = self.proxy(&member.node, &member.socket);
        wait_for("the next proxy", PATIENCE, || {
            (*member.agent.connected().borrow() > before).then_some(())
        })
        .unwrap();
        let member = &mut self.nodes[node];
        (
            std::mem::replace(&mut member.proxy, proxy),
            std::mem::replace(&mut member.home, home),
        )
    }

    pub fn proxy_of(&mut self, node: usize) -> &mut Process {
        &mut self.nodes[node].proxy
    }

    pub fn node(&self, node: usize) -> &Node {
        &self.nodes[node].node
    }

    /// What a proxy has printed.
    pub fn log(&self, node: usize) -> String {
        self.nodes[node].proxy.output()
    }

    /// Waits until a proxy has printed a line with all of `words`, and returns it.
    pub fn wait_for_line(&self, node: usize, words: &[&str]) -> String {
        let found = wait_for(&format!("a line with {words:?}"), PATIENCE, || {
            let log = self.log(node);
            log.lines()
                .find(|line| words.iter().all(|w| line.contains(w)))
                .map(str::to_owned)
        });
        found.unwrap_or_else(|e| panic!("{e}\n{}", self.log(node)))
    }

    /// A pod that is not in the mesh.
    pub fn pod(&self, node: usize, name: &str, service_account: &str) -> Enrolled {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let pod = self.nodes[node].node.pod(name).unwrap();
        let zds = zds::Pod {
            uid: format!("uid-{number}"),
            name: name.into(),
            namespace: "shop".into(),
            service_account: service_account.into(),
        };
        Enrolled { pod, zds, node }
    }

    /// A pod of the mesh: captured, announced, and known to everybody.
    pub fn enrolled(&self, node: usize, name: &str, service_account: &str) -> Enrolled {
        let member = self.pod(node, name, service_account);
        self.publish([member.workload(Protocol::Hbone)]);
        self.enrol(&member).unwrap();
        member
    }

    /// Captures and announces a pod.
    pub fn enrol(&self, member: &Enrolled) -> Result<(), SendError> {
        capture_pod(member.namespace()).unwrap();
        self.announce(member)
    }

    pub fn announce(&self, member: &Enrolled) -> Result<(), SendError> {
        let netns = Arc::new(member.namespace().try_clone_fd().unwrap());
        let agent = self.nodes[member.node].agent.clone();
        self.runtime.block_on(agent.add(member.zds.clone(), netns))
    }

    /// Takes a pod out of the mesh's hands; its capture rules stay.
    pub fn withdraw(&self, member: &Enrolled) {
        let agent = self.nodes[member.node].agent.clone();
        self.runtime
            .block_on(agent.delete(&member.zds.uid))
            .unwrap();
    }

    pub fn publish(&self, workloads: impl IntoIterator<Item = Workload>) {
        let set = workloads.into_iter().map(|w| Resource {
            name: w.uid.clone(),
            aliases: Vec::new(),
            groups: Vec::new(),
            body: workload::Address::from(&w).encode_to_vec().into(),
        });
        let set: Vec<Resource> = set.collect();
        let names: Vec<Text> = set.iter().map(|r| r.name.clone()).collect();
        self.logs.get(type_url::ADDRESS).unwrap().publish(Batch {
            set,
            remove: Vec::new(),
        });
        names.iter().for_each(|name| self.wait_until_known(name));
    }

    pub fn publish_service(&self, s: &Service) {
        let resource = Resource {
            name: s.key().to_string().into(),
            aliases: Vec::new(),
            groups: Vec::new(),
            body: workload::Address::from(s).encode_to_vec().into(),
        };
        let batch = Batch {
            set: vec![resource],
            remove: Vec::new(),
        };
        self.logs.get(type_url::ADDRESS).unwrap().publish(batch);
        self.wait_until_known(&s.hostname);
    }

    /// Puts a policy in force everywhere.
    pub fn apply(&self, policy: &Authorization) {
        let resource = Resource {
            name: policy.key(),
            aliases: Vec::new(),
            groups: Vec::new(),
            body: security::Authorization::from(policy).encode_to_vec().into(),
        };
        let batch = Batch {
            set: vec![resource],
            remove: Vec::new(),
        };
        self.logs
            .get(type_url::AUTHORIZATION)
            .unwrap()
            .publish(batch);
        self.wait_until_known(&policy.name);
    }

    /// Takes a policy back.
    pub fn lift(&self, policy: &Authorization) {
        let batch = Batch {
            set: Vec::new(),
            remove: vec![policy.key()],
        };
        self.logs
            .get(type_url::AUTHORIZATION)
            .unwrap()
            .publish(batch);
        let name = format!("\"{}\"", policy.name);
        for node in 0..self.nodes.len() {
            wait_for("the policy to go", PATIENCE, || {
                (!self.get(node, 15000, "/config_dump").contains(&name)).then_some(())
            })
            .unwrap();
        }
    }

    fn wait_until_known(&self, name: &str) {
        for node in 0..self.nodes.len() {
            wait_for(&format!("node {node} to know {name}"), PATIENCE, || {
                self.get(node, 15000, "/config_dump")
                    .contains(name)
                    .then_some(())
            })
            .unwrap();
        }
    }

    /// A page of a proxy.
    pub fn get(&self, node: usize, port: u16, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let page = self.nodes[node].home.namespace().run(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.write_all(request.as_bytes())?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok::<_, std::io::Error>(page)
        });
        page.unwrap().unwrap_or_default()
    }
}

fn wait_for_agent(member: &Member) {
    wait_for("the proxy to find its agent", PATIENCE, || {
        (*member.agent.connected().borrow() > 0).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e}\n{}", member.proxy.output()));
}

fn serve_discovery(router: &Namespace, authority: &Authority, logs: Logs) {
    let address: SocketAddr = CONTROL.parse().unwrap();
    let names = [address.ip().to_string()];
    let (chain, key) = authority
        .issue_server(&names, Duration::from_secs(3600))
        .unwrap();
    let certificate = ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let config = server_config(certificate, None).unwrap();
    let (bound, ready) = std::sync::mpsc::channel();
    let serving = async move {
        // The router has the address as soon as it has a node.
        let everywhere = ("0.0.0.0", address.port());
        let listener = tokio::net::TcpListener::bind(everywhere).await.unwrap();
        bound.send(()).unwrap();
        tonic::transport::Server::builder()
            .add_service(service(logs, Arc::new(Anybody)))
            .serve_with_incoming(Incoming::new(listener, config))
            .await
            .unwrap();
    };
    // The task ends with its namespace.
    drop(router.spawn(serving).unwrap());
    ready.recv_timeout(PATIENCE).unwrap();
}

impl Enrolled {
    pub fn namespace(&self) -> &Namespace {
        self.pod.namespace()
    }

    pub fn ip(&self) -> IpAddr {
        self.pod.ip()
    }

    /// The pod as the control plane tells it.
    pub fn workload(&self, protocol: Protocol) -> Workload {
        Workload {
            uid: format!("Kubernetes//Pod/shop/{}", self.zds.name).into(),
            name: self.zds.name.as_str().into(),
            namespace: "shop".into(),
            service_account: self.zds.service_account.as_str().into(),
            addresses: vec![self.ip()],
            node: format!("node{}", self.node + 1).into(),
            workload_name: self.zds.name.as_str().into(),
            canonical_name: self.zds.name.as_str().into(),
            canonical_revision: "v1".into(),
            protocol,
            ..Workload::default()
        }
    }

    /// Starts the test application: it says who connects, echoes, and says `bye` after the client
    /// has said all.
    pub fn serve(&self) {
        let listener = self
            .namespace()
            .run(|| TcpListener::bind(("0.0.0.0", APP)))
            .unwrap()
            .unwrap();
        // The thread ends with the test process; it holds nothing but the socket.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let _ = stream.and_then(answer);
                });
            }
        });
    }

    /// Connects from inside the pod.
    pub fn connect(&self, to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
        let to = to.into();
        let stream = self
            .namespace()
            .run(move || TcpStream::connect_timeout(&to, PATIENCE))
            .unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// One exchange with the test application.
    pub fn ask(&self, to: impl Into<SocketAddr>, text: &str) -> std::io::Result<Reply> {
        let mut stream = self.connect(to)?;
        stream.write_all(text.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let (client, rest) = reply
            .split_once('\n')
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let client = client.parse().map_err(std::io::Error::other)?;
        Ok(Reply {
            client,
            rest: rest.to_owned(),
        })
    }

    /// The connection is refused by the mesh: it ends without a word from the application.
    pub fn is_refused(&self, to: impl Into<SocketAddr>) -> bool {
        match self.ask(to, "let me in") {
            Ok(_) => false,
            Err(e) => {
                use std::io::ErrorKind as K;
                let ended = [
                    K::UnexpectedEof,
                    K::ConnectionReset,
                    K::BrokenPipe,
                    K::NotConnected,
                ];
                assert!(ended.contains(&e.kind()), "{e}");
                true
            }
        }
    }
}

/// What the test application answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The client's address as the application sees it.
    pub client: IpAddr,
    pub rest: String,
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let peer = stream.peer_addr()?;
    stream.write_all(format!("{}\n", peer.ip()).as_bytes())?;
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return stream.write_all(b" bye");
        }
        stream.write_all(&buffer[..n])?;
    }
}

/// Reads the application's first line.
pub fn greeting(stream: &TcpStream) -> String {
    let mut line = String::new();
    BufReader::with_capacity(64, stream)
        .read_line(&mut line)
        .unwrap();
    line.trim().to_owned()
}

/// A service in front of workloads.
pub fn a_service(host: &str, vip: &str) -> Service {
    Service {
        name: host.split('.').next().unwrap_or(host).into(),
        namespace: "shop".into(),
        hostname: host.into(),
        vips: vec![NetworkAddress {
            network: "".into(),
            address: vip.parse().unwrap(),
        }],
        ports: PortMap::from([(80, APP)]),
        canonical: true,
        ..Service::default()
    }
}

/// The workload also serves the service.
pub fn serving(mut w: Workload, host: &str) -> Workload {
    let ports = BTreeMap::from([(80, APP)]);
    w.services
        .insert(NamespacedHostname::new("shop", host), ports);
    w
}
