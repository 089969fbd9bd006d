//! The source of the load: one thread, one epoll, no allocation while it runs.
//!
//! With a rate, every request has an intended time, fixed in advance, and its latency counts from
//! then. If the path stalls, the requests that could not be sent on time show the stall, each one
//! of them; counting from the actual send would hide all but the first.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::server::{REQUEST, RESPONSE};

mod epoll;

use epoll::Epoll;

/// What to send.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// Connections at a time.
    #[arg(long)]
    pub connections: usize,
    /// How long.
    #[arg(long)]
    pub seconds: f64,
    /// Requests a second over all connections; without, each connection sends when it has its
    /// answer.
    #[arg(long)]
    pub rate: Option<f64>,
    /// A new connection for each request.
    #[arg(long)]
    pub reconnect: bool,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests that were answered.
    pub requests: u64,
    /// Time that it took.
    pub seconds: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Requests that were answered with an error.
    #[serde(default)]
    pub failed: u64,
}

/// What one stream carried.
#[derive(Debug, Serialize, Deserialize)]
pub struct Streamed {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Until the last of them was confirmed.
    pub seconds: f64,
}

/// Writes for some time and waits for the confirmation of the far end.
pub fn stream(target: SocketAddr, seconds: f64) -> Result<Streamed> {
    let mut stream = TcpStream::connect(target)?;
    let chunk = vec![b's'; 128 * 1024];
    let start = Instant::now();
    let mut sent = 0u64;
    while start.elapsed().as_secs_f64() < seconds {
        stream.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut confirmed = [0; 8];
    stream
        .read_exact(&mut confirmed)
        .context("the server did not confirm the stream")?;
    let bytes = u64::from_be_bytes(confirmed);
    ensure!(bytes == sent, "{sent} bytes were sent and {bytes} arrived");
    Ok(Streamed {
        bytes,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Result<Outcome> {
    precise_timers();
    let mut load = Load::new(plan)?;
    load.warm_up()?;
    load.measure()
}

/// The kernel may otherwise delay a wake-up by 50 µs, to save energy.
pub fn precise_timers() {
    // SAFETY: sets a number of the calling thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

struct Connection {
    stream: Option<TcpStream>,
    /// When the request that is under way was to be sent.
    intended: Instant,
    /// When the next is to be sent.
    next: Instant,
    /// Bytes of the answer that are still to come; none if nothing is under way.
    missing: usize,
}

struct Load<'p> {
    plan: &'p Plan,
    epoll: Epoll,
    connections: Vec<Connection>,
    latency: Histogram<u64>,
    requests: u64,
    buffer: [u8; RESPONSE],
}

impl<'p> Load<'p> {
    fn new(plan: &'p Plan) -> Result<Self> {
        let now = Instant::now();
        let idle = || Connection {
            stream: None,
            intended: now,
            next: now,
            missing: 0,
        };
        Ok(Self {
            plan,
            epoll: Epoll::new()?,
            connections: (0..plan.connections).map(|_| idle()).collect(),
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            requests: 0,
            buffer: [0; RESPONSE],
        })
    }

    /// Opens what stays open, and sends a request on each, so that no set-up is measured.
    fn warm_up(&mut self) -> Result<()> {
        if self.plan.reconnect {
            return Ok(());
        }
        for index in 0..self.connections.len() {
            let mut stream = TcpStream::connect(self.plan.target).context("cannot connect")?;
            stream.set_nodelay(true)?;
            stream.write_all(&[b'q'; REQUEST])?;
            stream.read_exact(&mut self.buffer)?;
            stream.set_nonblocking(true)?;
            self.epoll.add(stream.as_raw_fd(), index)?;
            self.connections[index].stream = Some(stream);
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<Outcome> {
        let start = Instant::now();
        let end = start + Duration::from_secs_f64(self.plan.seconds);
        let period = self
            .plan
            .rate
            .map(|rate| self.plan.connections as f64 / rate);
        for (index, connection) in self.connections.iter_mut().enumerate() {
            let offset = period.unwrap_or(0.0) * index as f64 / self.plan.connections as f64;
            connection.next = start + Duration::from_secs_f64(offset);
        }
        loop {
            let now = Instant::now();
            if now >= end {
                break;
            }
            let wait = self.send_due(now, period)?.unwrap_or(end);
            for index in self
                .epoll
                .wait(wait.min(end).saturating_duration_since(now))?
            {
                self.receive(index)?;
            }
        }
        let us = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        Ok(Outcome {
            requests: self.requests,
            seconds: start.elapsed().as_secs_f64(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            failed: 0,
        })
    }

    /// Sends what is due on connections that are free; returns when the next is due.
    fn send_due(&mut self, now: Instant, period: Option<f64>) -> Result<Option<Instant>> {
        let mut earliest: Option<Instant> = None;
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.missing > 0 {
                continue;
            }
            if connection.next <= now {
                self.send(index, period)?;
            } else {
                let next = connection.next;
                earliest = Some(earliest.map_or(next, |e| e.min(next)));
            }
        }
        Ok(earliest)
    }

    fn send(&mut self, index: usize, period: Option<f64>) -> Result<()> {
        let connection = &mut self.connections[index];
        // Without a rate, a request is intended when it is sent.
        connection.intended = if period.is_some() {
            connection.next
        } else {
            Instant::now()
        };
        if let Some(period) = period {
            connection.next += Duration::from_secs_f64(period);
        }
        connection.missing = RESPONSE;
        match &mut connection.stream {
            Some(stream) => Ok(stream.write_all(&[b'q'; REQUEST])?),
            None => {
                let stream = connect(self.plan.target)?;
                self.epoll.add_connecting(stream.as_raw_fd(), index)?;
                connection.stream = Some(stream);
                Ok(())
            }
        }
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else {
            return Ok(());
        };
        if self.epoll.is_connecting(index) {
            if let Some(e) = stream.take_error()? {
                return Err(e).context("cannot connect");
            }
            stream.write_all(&[b'q'; REQUEST])?;
            return Ok(self.epoll.connected(stream.as_raw_fd(), index)?);
        }
        match stream.read(&mut self.buffer) {
            Ok(0) if self.plan.reconnect && connection.missing == 0 => {}
            Ok(0) => anyhow::bail!("the connection was closed in the middle of an answer"),
            Ok(n) => connection.missing = connection.missing.saturating_sub(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e).context("cannot read an answer"),
        }
        if connection.missing == 0 {
            let took = connection.intended.elapsed();
            self.latency
                .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            self.requests += 1;
            if self.plan.reconnect {
                connection.stream = None;
            } else if self.plan.rate.is_none() {
                self.send(index, None)?;
            }
        }
        Ok(())
    }
}

/// Begins to connect.
fn connect(target: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&target.into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(e).context("cannot connect"),
    }
    Ok(socket.into())
}
