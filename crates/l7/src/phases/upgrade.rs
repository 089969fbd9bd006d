//! Upgrades: a connection that stops speaking HTTP, such as a WebSocket (RFC 9110, 7.8).

use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// A client that asks for an upgrade.
pub(crate) struct Asked {
    protocol: HeaderValue,
    client: OnUpgrade,
}

/// Another version of HTTP, or TLS for it: requests in it would go past everything here.
fn is_http(protocol: &HeaderValue) -> bool {
    let text = protocol.to_str().unwrap_or("http").to_ascii_lowercase();
    let mut protocols = text.split(',').map(str::trim);
    protocols.any(|p| {
        ["h2", "http", "tls"]
            .iter()
            .any(|begin| p.starts_with(begin))
    })
}

/// Takes the request for an upgrade out of a head, if it is one.
pub(crate) fn asked(parts: &mut Parts) -> Option<Asked> {
    if parts.version != Version::HTTP_11 {
        return None;
    }
    let names_it = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        text.split(',')
            .any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
    };
    let protocol = parts.headers.get(UPGRADE)?.clone();
    if is_http(&protocol) {
        return None;
    }
    parts
        .headers
        .get_all(CONNECTION)
        .iter()
        .any(names_it)
        .then_some(())?;
    let client = parts.extensions.remove::<OnUpgrade>()?;
    Some(Asked { protocol, client })
}

impl Asked {
    /// Puts it into the head for the backend, from which everything about this hop was taken out.
    pub(crate) fn ask(&self, parts: &mut Parts) {
        parts.headers.insert(UPGRADE, self.protocol.clone());
        let upgrade = HeaderValue::from_static("upgrade");
        parts.headers.insert(CONNECTION, upgrade);
    }

    /// Carries the bytes between both ends from now on.
    pub(crate) fn carry(self, response: &mut Response<Incoming>) {
        let backend = hyper::upgrade::on(response);
        tokio::spawn(async move {
            let (client, backend) = match tokio::try_join!(self.client, backend) {
                Ok(both) => both,
                Err(e) => return tracing::debug!("an upgrade was not completed: {e}"),
            };
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            if let Err(e) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                tracing::debug!("an upgraded connection ended: {e}");
            }
        });
    }
}
