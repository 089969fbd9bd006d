//! The health check of gRPC services (`grpc.health.v1.Health/Check`), as far as a probe needs it:
//! one request over a connection of its own. The two messages have one field each, so they are
//! written and read here.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// `HealthCheckResponse.SERVING`.
const SERVING: u64 = 1;
/// An answer is a few bytes.
const LARGEST: usize = 16 * 1024;

/// Asks the service at `address` whether `service` ("" for the whole server) is serving.
///
/// # Errors
/// What is in the way, in words.
pub(super) async fn check(address: SocketAddr, service: &str) -> Result<(), String> {
    let describe =
        |error: &dyn std::fmt::Display| format!("error: health rpc to {address} failed: {error}");
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("timeout: failed to connect service {address}: {error}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| describe(&e))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.35")
        .body(Full::new(request(service)))
        .map_err(|e| describe(&e))?;
    let result = match sender.send_request(request).await {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            match Limited::new(body, LARGEST).collect().await {
                Ok(body) => {
                    let trailers = body.trailers().cloned().unwrap_or_default();
                    // An error may come in the headers, without a body.
                    let code = ["grpc-status"]
                        .iter()
                        .find_map(|key| trailers.get(*key).or(parts.headers.get(*key)));
                    let code = code.and_then(|code| code.to_str().ok()).unwrap_or("2");
                    judge(code, &body.to_bytes())
                }
                Err(error) => Err(describe(&error)),
            }
        }
        Err(error) => Err(describe(&error)),
    };
    connection.abort();
    result
}

/// The message with its prefix: not compressed, length, then `service = 1`.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    // A service name is far below the limits of its field.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(0));
    framed.put(message);
    framed.freeze()
}

fn put_varint(buffer: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        buffer.put_u8((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    buffer.put_u8(number as u8);
}

/// What status and message mean.
fn judge(code: &str, body: &[u8]) -> Result<(), String> {
    match code {
        "0" => {}
        "12" => return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_string()),
        "5" => return Err("error: health rpc failed: unknown service".to_string()),
        other => return Err(format!("error: health rpc failed with grpc status {other}")),
    }
    match status(body) {
        Some(SERVING) => Ok(()),
        Some(other) => {
            let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
            let index = usize::try_from(other).unwrap_or(usize::MAX);
            let name = name.get(index).copied().unwrap_or("UNKNOWN");
            Err(format!("service unhealthy (responded with {name:?})"))
        }
        None => Err("error: the health answer is not a message".to_string()),
    }
}

/// `status` (field 1, a number) of a framed `HealthCheckResponse`; missing means 0.
fn status(body: &[u8]) -> Option<u64> {
    let (prefix, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix.get(1..5)?.try_into().ok()?);
    if prefix[0] != 0 || message.len() != usize::try_from(length).ok()? {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, rest @ ..] => varint(rest),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<u64> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index).min(63);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_framed() {
        assert_eq!(request("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(200);
        assert_eq!(&request(&long)[..8], [0, 0, 0, 0, 203, 0x0a, 200, 1]);
    }

    #[test]
    fn answers_are_understood() {
        let framed = |message: &[u8]| [&[0, 0, 0, 0, message.len() as u8], message].concat();
        assert_eq!(judge("0", &framed(&[8, 1])), Ok(()));
        assert!(
            judge("0", &framed(&[8, 2]))
                .unwrap_err()
                .contains("NOT_SERVING")
        );
        assert!(judge("0", &framed(&[])).unwrap_err().contains("UNKNOWN"));
        assert!(judge("12", &[]).unwrap_err().contains("does not implement"));
        for broken in [
            &[][..],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 9],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 16, 1],
        ] {
            assert!(judge("0", broken).is_err(), "{broken:?}");
        }
    }

    /// Serves one connection with one answer.
    async fn server(status: u8) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(
                move |request: hyper::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(&body[5..], b"\n\x03web");
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                    let body = Full::new(message).with_trailers(async { Some(Ok(trailers)) });
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(body))
                },
            );
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        address
    }

    #[tokio::test]
    async fn a_server_is_asked() {
        assert_eq!(check(server(1).await, "web").await, Ok(()));
        let refused = check(server(2).await, "web").await.unwrap_err();
        assert!(refused.contains("NOT_SERVING"), "{refused}");
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        assert!(
            check(address, "")
                .await
                .unwrap_err()
                .contains("failed to connect")
        );
    }
}
