//! The source of the load: connections through one tunnel, as a node proxy opens them for a pod.
//!
//! With a rate, every request has an intended time, fixed in advance, and its latency counts from
//! then, as in the benchmark of the node proxies.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_transport::hbone::client::{self, Dial, Tunnel};
use ambit_transport::hbone::{ConnectRequest, Http2Settings};
use ambit_transport::socket::ConnectOptions;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::backend::certificate;
use super::places::{BODY, SERVICE, identity};
use crate::load::{Outcome, precise_timers};

/// Connections that share a tunnel, as a node proxy has it.
const STREAMS: usize = 100;
/// Requests of HTTP/2 that share a connection.
const SHARED: usize = 16;

/// Said when all connections are open and have carried a request.
pub const OPEN: &str = "all connections are open";

/// What to send.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// The waypoint's port of tunnels.
    waypoint: SocketAddr,
    /// Directory with `client.chain`, `client.key` and `roots`.
    #[arg(long)]
    files: PathBuf,
    /// Requests at a time.
    #[arg(long)]
    connections: usize,
    /// How long.
    #[arg(long)]
    seconds: f64,
    /// Requests a second; without, each connection sends when it has its answer.
    #[arg(long)]
    rate: Option<f64>,
    /// Paths that are asked for in turn.
    #[arg(long, default_value_t = 1)]
    paths: usize,
    /// HTTP/2 instead of HTTP/1.1.
    #[arg(long)]
    http2: bool,
    /// A token to send.
    #[arg(long)]
    token: Option<String>,
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, load(plan))
}

async fn load(plan: &Plan) -> Result<Outcome> {
    let plan = Rc::new(plan.clone());
    let mut senders = Vec::new();
    let mut tunnels = Vec::new();
    while senders.len() < plan.connections {
        let tunnel = open(&plan).await?;
        for _ in 0..STREAMS {
            if senders.len() < plan.connections {
                senders.extend(connect(&tunnel, plan.http2).await?);
            }
        }
        tunnels.push(tunnel);
    }
    let mut connections = Vec::new();
    for (number, sender) in senders.into_iter().enumerate() {
        connections.push(Connection {
            sender,
            plan: plan.clone(),
            next_path: number,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            failed: 0,
        });
    }
    // A request on each, so that no set-up is measured.
    for connection in &mut connections {
        ensure!(connection.one().await?, "a first request is not answered");
    }
    eprintln!("{OPEN}");
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(plan.seconds);
    let mut due = Vec::new();
    let mut tasks = Vec::new();
    for connection in connections {
        let (sender, receiver) = unbounded_channel();
        due.push(sender);
        let paced = plan.rate.is_some().then_some(receiver);
        tasks.push(tokio::task::spawn_local(connection.run(end, paced)));
    }
    if let Some(rate) = plan.rate {
        std::thread::spawn(move || pace(&due, start, end, rate));
    }
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut failed = 0;
    for task in tasks {
        let connection = task.await??;
        latency.add(connection.latency)?;
        failed += connection.failed;
    }
    let us = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Outcome {
        requests: latency.len(),
        seconds: start.elapsed().as_secs_f64(),
        p50_us: us(0.5),
        p99_us: us(0.99),
        failed,
    })
}

async fn open(plan: &Plan) -> Result<Tunnel> {
    let dial = Dial {
        destination: plan.waypoint,
        netns: None,
        socket: ConnectOptions::unmarked(),
        certificate: certificate(&plan.files, "client")?,
        expected: Arc::from([identity("waypoint")]),
        http2: Http2Settings::client(),
    };
    Ok(client::dial(dial).await?)
}

/// Says when requests are due, one connection after the other.
fn pace(due: &[UnboundedSender<Instant>], start: Instant, end: Instant, rate: f64) {
    precise_timers();
    for (number, sender) in (0u32..).zip(due.iter().cycle()) {
        let intended = start + Duration::from_secs_f64(f64::from(number) / rate);
        if intended >= end {
            return;
        }
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        if sender.send(intended).is_err() {
            return;
        }
    }
}

/// What requests are sent on.
enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// Opens a connection: what its requests are sent on, each one at a time.
async fn connect(tunnel: &Tunnel, over_http2: bool) -> Result<Vec<Sender>> {
    let stream = tunnel
        .open(&ConnectRequest::new(SERVICE.to_string()))
        .await
        .context("the waypoint does not open a stream")?
        .stream;
    let io = TokioIo::new(stream);
    if over_http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        return Ok((0..SHARED).map(|_| Sender::Http2(sender.clone())).collect());
    }
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    Ok(vec![Sender::Http1(sender)])
}

struct Connection {
    sender: Sender,
    plan: Rc<Plan>,
    next_path: usize,
    latency: Histogram<u64>,
    failed: u64,
}

impl Connection {
    /// Sends until the end, as fast as it goes or when it is due.
    async fn run(
        mut self,
        end: Instant,
        mut due: Option<UnboundedReceiver<Instant>>,
    ) -> Result<Self> {
        loop {
            let intended = match &mut due {
                None => Instant::now(),
                Some(due) => match due.recv().await {
                    Some(intended) => intended,
                    None => break,
                },
            };
            // What is still due when the time is over counts as late as it was sent.
            if due.is_none() && intended >= end {
                break;
            }
            if !self.one().await? {
                self.failed += 1;
                continue;
            }
            let took = intended.elapsed().as_nanos();
            self.latency
                .saturating_record(u64::try_from(took).unwrap_or(u64::MAX));
        }
        Ok(self)
    }

    /// One request and its answer: whether it was the right one.
    async fn one(&mut self) -> Result<bool> {
        let path = self.next_path % self.plan.paths;
        self.next_path = self.next_path.wrapping_add(self.plan.connections);
        let http2 = matches!(self.sender, Sender::Http2(_));
        let target = match http2 {
            true => format!("http://server.bench/route-{path}/item"),
            false => format!("/route-{path}/item"),
        };
        let mut request = Request::get(target)
            .header(header::USER_AGENT, "ambit-bench")
            .header(header::ACCEPT, "*/*");
        if !http2 {
            request = request.header(header::HOST, "server.bench");
        }
        if let Some(token) = &self.plan.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::new())?;
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(status == StatusCode::OK && body.len() == BODY)
    }
}
