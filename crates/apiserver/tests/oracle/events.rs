//! A watch that goes on while other requests are made.

use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::sync::mpsc;

/// How long an event may take. The real server answers some watches from a cache that is filled
/// once a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// The events of a watch, as they come.
pub struct Events(mpsc::UnboundedReceiver<Value>);

impl Events {
    /// Reads a stream of JSON objects, one a line.
    pub fn read(mut body: Body) -> Self {
        let (to, from) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut line = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                for byte in frame.into_data().unwrap_or_default() {
                    if byte != b'\n' {
                        line.push(byte);
                        continue;
                    }
                    let event = serde_json::from_slice(&line).unwrap_or_else(|error| {
                        Value::String(format!("{error}: {}", String::from_utf8_lossy(&line)))
                    });
                    line.clear();
                    if to.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        Events(from)
    }

    /// The next `count` events; all until the stream ends when there is no count. Fewer when time
    /// runs out.
    pub async fn take(&mut self, count: Option<usize>) -> Vec<Value> {
        let mut taken = Vec::new();
        while count.is_none_or(|count| taken.len() < count) {
            match tokio::time::timeout(PATIENCE, self.0.recv()).await {
                Ok(Some(event)) => taken.push(event),
                Ok(None) => break,
                Err(_) => {
                    taken.push(Value::from("nothing more came"));
                    break;
                }
            }
        }
        taken
    }
}
