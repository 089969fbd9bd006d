//! The lines of the access log.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_runtime::log::Line;
use tracing::Level;

use super::{Connection, Failure, Party};
use crate::metrics::Reporter;

/// Logs a connection that was refused before anything was known about it. It counts nowhere.
pub fn refused(
    reporter: Reporter,
    source: SocketAddr,
    destination: SocketAddr,
    error: impl Display,
) {
    let Some(mut line) = Line::access(Level::WARN, "connection failed") else {
        return;
    };
    line.display("src.addr", canonical(source))
        .display("dst.addr", canonical(destination));
    line.text("direction", reporter.direction())
        .text("error", &error.to_string());
    line.finish();
}

pub(super) fn opened(connection: &Connection) {
    let Some(mut line) = Line::access(Level::DEBUG, "connection opened") else {
        return;
    };
    ends(&mut line, connection);
    line.finish();
}

/// `moved` is client to server, then server to client.
pub(super) fn complete(
    connection: &Connection,
    moved: (u64, u64),
    duration: Duration,
    failure: Option<&Failure>,
) {
    let level = if failure.is_some() {
        Level::ERROR
    } else {
        Level::INFO
    };
    let Some(mut line) = Line::access(level, "connection complete") else {
        return;
    };
    ends(&mut line, connection);
    // As the application on the reporter's side sees it.
    let (sent, received) = match connection.reporter {
        Reporter::Source => moved,
        Reporter::Destination | Reporter::Waypoint => (moved.1, moved.0),
    };
    line.number("bytes_sent", sent)
        .number("bytes_recv", received);
    line.text("duration", &format!("{}ms", duration.as_millis()));
    if let Some(failure) = failure {
        line.text("error", &failure.error);
    }
    line.finish();
}

fn ends(line: &mut Line, connection: &Connection) {
    line.display("src.addr", canonical(connection.source_address));
    party(line, &KEYS[0], &connection.source, connection.mutual_tls);
    line.display("dst.addr", canonical(connection.destination_address));
    if let Some(target) = &connection.hbone_target {
        line.display("dst.hbone_addr", target);
    }
    if let Some(service) = &connection.service {
        line.text("dst.service", &service.hostname);
    }
    party(
        line,
        &KEYS[1],
        &connection.destination,
        connection.mutual_tls,
    );
    line.text("direction", connection.reporter.direction());
}

/// Names of the fields of an end.
struct Keys {
    workload: &'static str,
    namespace: &'static str,
    identity: &'static str,
    cluster: &'static str,
}

const KEYS: [Keys; 2] = [
    Keys {
        workload: "src.workload",
        namespace: "src.namespace",
        identity: "src.identity",
        cluster: "src.cluster",
    },
    Keys {
        workload: "dst.workload",
        namespace: "dst.namespace",
        identity: "dst.identity",
        cluster: "dst.cluster",
    },
];

fn party(line: &mut Line, keys: &Keys, party: &Party, mutual_tls: bool) {
    let (workload, baggage) = (party.workload.as_deref(), party.baggage.as_deref());
    let mut field = |key, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            line.text(key, value);
        }
    };
    let of_baggage = |value: Option<&String>| match workload {
        None => value.cloned(),
        Some(_) => None,
    };
    let name = workload.map(|w| {
        if w.name.is_empty() {
            &*w.canonical_name
        } else {
            &*w.name
        }
    });
    let service = of_baggage(baggage.and_then(|b| b.service.as_ref()));
    field(keys.workload, name.or(service.as_deref()));
    let namespace = of_baggage(baggage.and_then(|b| b.namespace.as_ref()));
    field(
        keys.namespace,
        workload.map(|w| &*w.namespace).or(namespace.as_deref()),
    );
    if mutual_tls && let Some(identity) = &party.identity {
        field(keys.identity, Some(&identity.to_string()));
    }
    let cluster = of_baggage(baggage.and_then(|b| b.cluster.as_ref()));
    field(
        keys.cluster,
        workload.map(|w| &*w.cluster_id).or(cluster.as_deref()),
    );
}

/// IPv4 addresses are shown as such, also where a dual-stack socket delivers them.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
