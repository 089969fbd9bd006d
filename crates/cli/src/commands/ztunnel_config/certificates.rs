//! `ztunnel-config certificate`.

use jiff::Timestamp;
use serde_json::Value;

use super::View;
use super::dump::{Dump, text};
use crate::commands::output::table;

const HEADER: [&str; 7] = [
    "CERTIFICATE NAME",
    "TYPE",
    "STATUS",
    "VALID CERT",
    "SERIAL NUMBER",
    "NOT AFTER",
    "NOT BEFORE",
];
/// Wider than in the other tables, as istioctl has it.
const PADDING: usize = 5;

/// All certificates, in the order of the dump.
pub fn view(dump: &Dump, now: Timestamp) -> View {
    let rows: Vec<Vec<String>> = dump
        .certificates
        .iter()
        .flat_map(|c| rows(c, now))
        .collect();
    View {
        objects: dump.certificates.iter().cloned().collect(),
        table: table(&HEADER, &rows, PADDING),
    }
}

/// The chain of an identity, then its roots; one row when it has no certificate.
fn rows(entry: &Value, now: Timestamp) -> Vec<Vec<String>> {
    let state = text(entry, "state");
    let status = state.split(':').next().unwrap_or(state);
    let start = |kind: &str| {
        vec![
            text(entry, "identity").to_owned(),
            kind.to_owned(),
            status.to_owned(),
        ]
    };
    let list = |field: &str| entry[field].as_array().cloned().unwrap_or_default();
    let chain = list("certChain");
    if chain.is_empty() {
        let mut row = start("NA");
        row.extend(["false", "NA", "NA", "NA"].map(str::to_owned));
        return vec![row];
    }
    let chain = chain.into_iter().enumerate();
    let chain = chain.map(|(i, c)| (if i == 0 { "Leaf" } else { "Intermediate" }, c));
    let roots = list("rootCerts").into_iter().map(|c| ("Root", c));
    chain
        .chain(roots)
        .map(|(kind, certificate)| {
            let mut row = start(kind);
            row.push(is_valid(&certificate, now).to_string());
            row.push(hexadecimal(text(&certificate, "serialNumber")));
            row.push(text(&certificate, "expirationTime").to_owned());
            row.push(text(&certificate, "validFrom").to_owned());
            row
        })
        .collect()
}

fn is_valid(certificate: &Value, now: Timestamp) -> bool {
    let time = |field: &str| text(certificate, field).parse::<Timestamp>();
    matches!((time("validFrom"), time("expirationTime")), (Ok(from), Ok(to)) if from <= now && now <= to)
}

/// A decimal number of any length in lower-case hexadecimal; what is no number stays as it is.
fn hexadecimal(decimal: &str) -> String {
    if decimal.is_empty() || !decimal.bytes().all(|b| b.is_ascii_digit()) {
        return decimal.to_owned();
    }
    // Base 16, least significant first.
    let mut digits: Vec<u32> = vec![0];
    for byte in decimal.bytes() {
        let mut carry = u32::from(byte - b'0');
        for digit in &mut digits {
            let value = *digit * 10 + carry;
            *digit = value % 16;
            carry = value / 16;
        }
        if carry > 0 {
            digits.push(carry);
        }
    }
    let text: String = digits
        .iter()
        .rev()
        .filter_map(|d| char::from_digit(*d, 16))
        .collect();
    let trimmed = text.trim_start_matches('0');
    if trimmed.is_empty() {
        "0".to_owned()
    } else {
        trimmed.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::hexadecimal;

    #[test]
    fn serial_numbers_in_hexadecimal() {
        for (decimal, expected) in [
            ("0", "0"),
            ("255", "ff"),
            ("4096", "1000"),
            // 2^128, one more than fits in 128 bits.
            (
                "340282366920938463463374607431768211456",
                "100000000000000000000000000000000",
            ),
            ("x", "x"),
        ] {
            assert_eq!(hexadecimal(decimal), expected);
        }
        let long: u128 = 297_846_549_731_201_978_432_129_037_821_377_329_203;
        assert_eq!(hexadecimal(&long.to_string()), format!("{long:x}"));
    }
}
