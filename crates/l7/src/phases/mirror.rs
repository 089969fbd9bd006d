//! Phase `mirror`: copies of a request, whose responses nobody sees.

use ambit_model::route::Forward;
use http::request::Parts;
use http::{Request, Version};
use http_body_util::BodyExt;
use rand::RngExt;

use crate::body::{Body, Replay};
use crate::serve::Inbound;
use crate::{choose, forward, listener, upstream};

/// Sends copies as a rule asks for. A body that is too long to be kept is not copied.
pub(crate) fn copy(inbound: &Inbound, forward: &Forward, parts: &Parts, body: &Replay) {
    for mirror in &forward.mirrors {
        if rand::rng().random_range(0..mirror.of) >= mirror.share {
            continue;
        }
        let Replay::Whole(bytes, trailers) = body else {
            tracing::debug!("a request is too long to be mirrored");
            continue;
        };
        let body = Body::Kept(bytes.clone(), trailers.clone());
        let (inbound, target, parts) = (inbound.clone(), mirror.target.clone(), parts.clone());
        let worker = inbound.worker.clone();
        listener::spawn(&worker, async move {
            let Ok(destination) = forward::find_service(&inbound.worker.shared, &target) else {
                return;
            };
            let Ok(chosen) = choose::any(&inbound, &destination) else {
                return;
            };
            let http2 = parts.version == Version::HTTP_2;
            let mut request = Request::new(forward::uncounted(body));
            *request.method_mut() = parts.method.clone();
            *request.uri_mut() = super::target(&parts, parts.version);
            *request.version_mut() = parts.version;
            *request.headers_mut() = parts.headers.clone();
            if let Ok((response, back)) =
                upstream::send(&inbound.worker, &chosen.endpoint, http2, request).await
                && response.into_body().collect().await.is_ok()
                && let Some(back) = back
            {
                back.give();
            }
        });
    }
}
