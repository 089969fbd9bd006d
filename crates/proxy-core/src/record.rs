//! The record of a connection: one line in the access log and one set of metrics, for each side,
//! whatever its end.
//!
//! A proxy opens a [`ConnectionRecord`] when it knows where a connection goes, lets the copy count
//! into it, and finishes it with the result. A record that is dropped without one was drained, and
//! says so. Connections that are refused before anything is known about them leave a line
//! ([`refused`]) and no metrics.

mod failure;
mod line;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ambit_model::{Identity, Service, Text, Workload};
use ambit_transport::copy::Counters;
use ambit_transport::hbone::Baggage;

use crate::metrics::{Changes, Opened, Reporter, Telemetry};

pub use failure::Failure;
pub use line::refused;

/// Error of a connection that was dropped without a result.
const DRAINED: &str = "connection closed due to connection drain";

/// One end of a connection, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Party {
    /// Its workload. What it says about itself is then of no interest.
    pub workload: Option<Arc<Workload>>,
    /// What it says about itself, for a workload that is not known.
    pub baggage: Option<Arc<Baggage>>,
    /// Who it is, as TLS has shown; for the own side of a tunnel, who we are in it.
    pub identity: Option<Identity>,
}

/// A connection, as the record tells it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Which side we are.
    pub reporter: Reporter,
    /// The client's address.
    pub source_address: SocketAddr,
    /// Outbound: the address that is dialled. Inbound: the address that the client dialled.
    pub destination_address: SocketAddr,
    /// What the tunnel was asked for, when there is one.
    pub hbone_target: Option<Text>,
    /// The client.
    pub source: Party,
    /// The server.
    pub destination: Party,
    /// The service that the client meant.
    pub service: Option<Arc<Service>>,
    /// Whether both sides have shown certificates.
    pub mutual_tls: bool,
}

/// A connection that is open.
#[derive(Debug)]
pub struct ConnectionRecord {
    connection: Connection,
    opened: Option<Opened>,
    start: Instant,
}

impl ConnectionRecord {
    /// Counts a connection as opened. `start` is when it was accepted.
    pub fn open(telemetry: &Telemetry, connection: Connection, start: Instant) -> Self {
        Self::open_changed(telemetry, connection, start, None)
    }

    /// The same, where something is different about the labels of its metrics.
    pub fn open_changed(
        telemetry: &Telemetry,
        connection: Connection,
        start: Instant,
        changes: Option<&Changes<'_>>,
    ) -> Self {
        line::opened(&connection);
        let opened = Some(telemetry.opened(&connection, changes));
        Self {
            connection,
            opened,
            start,
        }
    }

    /// Where the copy counts its bytes: client to server is the copy's downstream to upstream.
    pub fn counters(&self) -> &Counters {
        // There is always one before the end, which takes the record.
        static NOWHERE: std::sync::LazyLock<Counters> = std::sync::LazyLock::new(Counters::default);
        self.opened.as_ref().map_or(&NOWHERE, Opened::counters)
    }

    /// What the record tells.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The connection came to its end.
    pub fn finish(mut self, result: Result<(), Failure>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<(), Failure>) {
        let Some(opened) = self.opened.take() else {
            return;
        };
        let counters = opened.counters();
        let moved = (counters.sent(), counters.received());
        line::complete(
            &self.connection,
            moved,
            self.start.elapsed(),
            result.as_ref().err(),
        );
        opened.closed(
            result
                .err()
                .map(|failure| failure.flags)
                .unwrap_or_default(),
        );
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        self.end(Err(Failure::new(DRAINED)));
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
