//! `certificates` of `/config_dump`.

use ambit_transport::tls::WorkloadCertificate;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::{CertificateManager, State};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    identity: String,
    state: String,
    cert_chain: Vec<Certificate>,
    root_certs: Vec<Certificate>,
}

/// A certificate, leaf first in its list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    /// PEM text, once more in base64.
    pem: String,
    /// Decimal.
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

impl CertificateManager {
    /// All identities with their state and certificates, sorted by identity; never a key.
    pub fn dump(&self) -> Value {
        let slots = self.shared.slots.load();
        let mut entries: Vec<Entry> = slots
            .iter()
            .map(|(identity, slot)| entry(identity.to_string(), &slot.borrow()))
            .collect();
        entries.sort_by(|a, b| a.identity.cmp(&b.identity));
        // Plain data with text keys, for which this cannot fail.
        serde_json::to_value(entries).unwrap_or(Value::Null)
    }
}

fn entry(identity: String, state: &State) -> Entry {
    let (state, certificate) = match state {
        State::Initializing => ("Initializing".to_owned(), None),
        State::Available(certificate) => ("Available".to_owned(), Some(certificate)),
        State::Failed(reason) => (format!("Unavailable: {reason}"), None),
    };
    let list = |ders: fn(&WorkloadCertificate) -> Vec<&[u8]>| {
        let ders = certificate.map(ders).unwrap_or_default();
        ders.into_iter().filter_map(describe).collect()
    };
    Entry {
        identity,
        state,
        cert_chain: list(|certificate| certificate.chain().collect()),
        root_certs: list(|certificate| certificate.roots().collect()),
    }
}

fn describe(der: &[u8]) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let time = |seconds| {
        Timestamp::from_second(seconds)
            .map(|t| t.to_string())
            .unwrap_or_default()
    };
    Some(Certificate {
        pem: STANDARD.encode(pem(der)),
        serial_number: parsed.tbs_certificate.serial.to_string(),
        valid_from: time(parsed.validity().not_before.timestamp()),
        expiration_time: time(parsed.validity().not_after.timestamp()),
    })
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// A moment as it is shown.
#[cfg(test)]
pub(super) fn shown(time: std::time::SystemTime) -> String {
    let seconds = time
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    Timestamp::from_second(seconds as i64).unwrap().to_string()
}
