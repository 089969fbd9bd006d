//! Kubeconfig files: how clients find the server and who they are.

use crate::pki::KeyCert;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The text of a kubeconfig (JSON, which is YAML) with one cluster, user and context, all
/// called `name`.
pub fn with_certificate(name: &str, url: &str, ca_pem: &str, user: &KeyCert) -> String {
    let user = serde_json::json!({
        "client-certificate-data": STANDARD.encode(&user.cert_pem),
        "client-key-data": STANDARD.encode(&user.key_pem),
    });
    render(name, url, ca_pem, &user)
}

/// As [`with_certificate`], for a bearer token.
pub fn with_token(name: &str, url: &str, ca_pem: &str, token: &str) -> String {
    render(name, url, ca_pem, &serde_json::json!({ "token": token }))
}

/// The lines of the file. Values are JSON strings, which YAML reads as they are.
fn render(name: &str, url: &str, ca_pem: &str, user: &serde_json::Value) -> String {
    let quoted = |s: &str| serde_json::Value::from(s).to_string();
    let (name, url) = (quoted(name), quoted(url));
    let ca = quoted(&STANDARD.encode(ca_pem));
    let mut text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {url}\n    certificate-authority-data: {ca}\ncontexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\ncurrent-context: {name}\npreferences: {{}}\nusers:\n- name: {name}\n  user:\n"
    );
    for (key, value) in user.as_object().into_iter().flatten() {
        text.push_str(&format!("    {key}: {value}\n"));
    }
    text
}

/// Writes a file that only its owner can read, by way of a new file beside it, so that a reader
/// never sees half of it. Makes the folder if needed.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    let result = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&partial, path));
    if result.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    result
}
