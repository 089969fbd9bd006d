//! The proxy of one pod: its listening sockets inside the pod, and who accepts on them.
//!
//! Each port has one socket, of which every worker holds a copy: the pod shows each port once, and
//! a connection stays on the worker that accepted it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use ambit_proxy_core::dns::{self, DnsConfig, DnsMetrics};
use ambit_proxy_core::metrics::WorkloadManagerMetrics;
use ambit_proxy_core::store::PodName;
use ambit_transport::netns::Netns;
use ambit_transport::socket::{self, ListenOptions};
use ambit_wire::zds;
use tokio::net::{TcpListener, TcpStream};

use crate::config::{Config, port};
use crate::pods::Start;
use crate::shared::{Pod, Shared, Worker, next_enrolment, until};
use crate::{inbound, outbound, plaintext};

/// Pause after an accept that failed for want of something, usually descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Starts the proxies of pods.
pub(crate) struct Starter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<Arc<Worker>>,
    pub(crate) dns: Option<(Arc<DnsConfig>, DnsMetrics)>,
    pub(crate) metrics: WorkloadManagerMetrics,
}

/// A running proxy. Dropping it ends it and every connection of the pod at once.
pub(crate) struct PodProxy {
    pub(crate) pod: Arc<Pod>,
    workers: Vec<Arc<Worker>>,
    metrics: WorkloadManagerMetrics,
}

impl Drop for PodProxy {
    fn drop(&mut self) {
        self.pod.stop.cancel();
        for worker in &self.workers {
            worker
                .pool
                .retain(|key| key.enrolment != self.pod.enrolment);
        }
        self.metrics.active.dec();
        self.metrics.stopped.inc();
        let PodName {
            name, namespace, ..
        } = &self.pod.name;
        tracing::info!(target: "inpod", uid = &*self.pod.uid, "proxy of {namespace}/{name} stopped");
    }
}

/// The open sockets of a pod.
struct Sockets {
    outbound: StdListener,
    plaintext: StdListener,
    hbone: StdListener,
    transparent: bool,
    dns: Option<dns::Sockets>,
}

/// What is accepted on a port.
#[derive(Clone, Copy)]
enum Port {
    Outbound,
    Plaintext,
    Hbone,
}

impl Start for Starter {
    type Proxy = PodProxy;

    fn start(&mut self, pod: &zds::Pod, netns: Netns) -> Result<PodProxy, String> {
        let config = &self.shared.config;
        let sockets = netns
            .run(|| open(config, self.dns.is_some()))
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        let pod = Arc::new(Pod {
            uid: pod.uid.as_str().into(),
            name: PodName {
                name: pod.name.as_str().into(),
                namespace: pod.namespace.as_str().into(),
                service_account: pod.service_account.as_str().into(),
            },
            netns,
            enrolment: next_enrolment(),
            transparent: sockets.transparent,
            stop: self.shared.end.child_token(),
        });
        self.serve(&pod, sockets).map_err(|e| e.to_string())?;
        self.metrics.active.inc();
        self.metrics.started.inc();
        let PodName {
            name, namespace, ..
        } = &pod.name;
        tracing::info!(target: "inpod", uid = &*pod.uid, "proxy of {namespace}/{name} started");
        Ok(PodProxy {
            pod,
            workers: self.workers.clone(),
            metrics: self.metrics.clone(),
        })
    }
}

fn open(config: &Config, dns: bool) -> io::Result<Sockets> {
    let listen = |number| {
        let options = ListenOptions {
            reuse_port: config.reuse_port,
            mark: config.mark,
            transparent: config.original_source,
            ..ListenOptions::wildcard(number, config.ipv6)
        };
        socket::listen(&options)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on port {number}: {e}")))
    };
    let (outbound, plaintext) = (listen(port::OUTBOUND)?, listen(port::PLAINTEXT)?);
    let hbone = listen(port::HBONE)?;
    let dns_sockets = || {
        dns::bind(dns::PORT, config.ipv6, config.mark, config.reuse_port).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot listen on port {}: {e}", dns::PORT),
            )
        })
    };
    Ok(Sockets {
        transparent: plaintext.transparent && hbone.transparent,
        outbound: outbound.listener,
        plaintext: plaintext.listener,
        hbone: hbone.listener,
        dns: dns.then(dns_sockets).transpose()?,
    })
}

impl Starter {
    fn serve(&self, pod: &Arc<Pod>, sockets: Sockets) -> io::Result<()> {
        let ports = [
            (Port::Outbound, sockets.outbound),
            (Port::Plaintext, sockets.plaintext),
            (Port::Hbone, sockets.hbone),
        ];
        let mut copies = Vec::new();
        for worker in &self.workers {
            for (port, socket) in &ports {
                copies.push((worker, *port, socket.try_clone()?));
            }
        }
        for (worker, port, socket) in copies {
            let accepting = accept(worker.clone(), pod.clone(), port, socket);
            self.shared.tasks.spawn_on(accepting, &worker.handle);
        }
        let dns = self.dns.as_ref().zip(sockets.dns);
        let worker = &self.workers[pod.enrolment as usize % self.workers.len()];
        if let Some(((config, metrics), sockets)) = dns {
            let server = dns::Server {
                store: self.shared.store.clone(),
                pod: pod.name.clone(),
                netns: pod.netns.clone(),
                config: config.clone(),
                metrics: metrics.clone(),
            };
            let (stop, draining) = (pod.stop.clone(), self.shared.draining.clone());
            let serving = async move {
                // A successor serves the same port: questions go there from now on.
                let serving = server.run(sockets, stop);
                if let Some(Err(e)) = draining.run_until_cancelled(serving).await {
                    tracing::error!(target: "dns", "the DNS proxy of a pod failed: {e}");
                }
            };
            self.shared.tasks.spawn_on(serving, &worker.handle);
        }
        Ok(())
    }
}

/// Accepts until the pod is gone or a drain begins.
async fn accept(worker: Arc<Worker>, pod: Arc<Pod>, port: Port, socket: StdListener) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!("a listening socket cannot be used: {e}"),
    };
    let draining = worker.shared.draining.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = pod.stop.cancelled() => return,
            _ = draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => spawn(&worker, &pod, port, stream, socket::canonical(peer)),
            // The client has gone away in the meantime.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                tracing::warn!("accept failed: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn spawn(worker: &Arc<Worker>, pod: &Arc<Pod>, port: Port, stream: TcpStream, peer: SocketAddr) {
    let (w, p) = (worker.clone(), pod.clone());
    match port {
        Port::Outbound => run(worker, pod, outbound::serve(w, p, stream, peer)),
        Port::Plaintext => run(worker, pod, plaintext::serve(w, p, stream, peer)),
        Port::Hbone => run(worker, pod, inbound::serve(w, p, stream, peer)),
    }
}

/// Runs a connection on this worker until it ends or the pod is gone.
fn run(worker: &Worker, pod: &Pod, connection: impl Future<Output = ()> + Send + 'static) {
    worker
        .shared
        .tasks
        .spawn(until(pod.stop.clone(), connection));
}
