//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::query::Query;
use super::{Body, answer as text};
use crate::kubelet::logs::{self, LogOptions};
use crate::kubelet::node::Node;

/// Streams a container's log.
pub(super) fn answer(
    node: &Node,
    namespace: &str,
    pod: &str,
    container: &str,
    query: Option<&str>,
) -> Response<Body> {
    let query = Query::parse(query);
    let options = match options(&query) {
        Ok(options) => options,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let Some(entry) = node.pods.find(namespace, pod) else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod {pod:?} in namespace {namespace:?} is not on this node"),
        );
    };
    let spec = entry.pod.spec.as_ref();
    let known = spec.is_some_and(|spec| {
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let mut ephemeral = spec.ephemeral_containers.iter().flatten();
        all.map(|c| &c.name).any(|name| name == container) || ephemeral.any(|c| c.name == container)
    });
    if !known {
        return text(
            StatusCode::NOT_FOUND,
            format!("container {container:?} not found in pod {pod:?}"),
        );
    }
    let logs = entry.logs.get(container).cloned().unwrap_or_default();
    let wanted = if query.flag(&["previous"]) {
        logs.previous
    } else {
        logs.current
    };
    let Some(log) = wanted else {
        let message = if query.flag(&["previous"]) {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        } else {
            format!("container {container:?} in pod {pod:?} is waiting to start")
        };
        return text(StatusCode::BAD_REQUEST, message);
    };
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        if let Err(error) = logs::send(log, options, sender).await {
            tracing::debug!("sending a log: {error}");
        }
    });
    let mut response = Response::new(ChannelBody(receiver).boxed());
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

fn options(query: &Query) -> Result<LogOptions, String> {
    let since_seconds: Option<i64> = query.number("sinceSeconds")?;
    let since = match (since_seconds, query.get(&["sinceTime"])) {
        (Some(seconds), _) => Some(Timestamp::now() - SignedDuration::from_secs(seconds)),
        (None, Some(time)) => Some(
            time.parse()
                .map_err(|_| format!("sinceTime: {time:?} is not a time"))?,
        ),
        (None, None) => None,
    };
    // A negative number of lines means all of them, as the API server passes it on.
    let tail: Option<i64> = query.number("tailLines")?;
    Ok(LogOptions {
        follow: query.flag(&["follow"]),
        timestamps: query.flag(&["timestamps"]),
        tail_lines: tail.and_then(|lines| usize::try_from(lines).ok()),
        limit_bytes: query.number("limitBytes")?,
        since,
    })
}

/// A body fed through a channel.
struct ChannelBody(mpsc::Receiver<Bytes>);

impl hyper::body::Body for ChannelBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
