//! The client in the echo image: asks, and prints each answer as numbered lines.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Context;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use super::grpc::{Echo, METHOD};
use crate::fetch::{Ask, fetch};

/// `client http://echo:80/path --method=GET -H name:value --count=10`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// http:// or grpc://
    url: Uri,
    /// Method
    #[arg(long, default_value = "GET")]
    method: Method,
    /// A header, "name:value"
    #[arg(short = 'H', long)]
    header: Vec<String>,
    /// Requests to make, one after the other
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Bound on each, in seconds
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
}

/// Asks `count` times; answers are parted by an empty line.
///
/// # Errors
/// When a request gets no answer, or an option cannot be understood.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    let mut headers = HeaderMap::new();
    for header in &args.header {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("{header:?} is no header: write name:value"))?;
        headers.append(
            HeaderName::from_str(name)?,
            HeaderValue::from_str(value.trim())?,
        );
    }
    let limit = Duration::try_from_secs_f64(args.timeout).context("--timeout")?;
    for number in 0..args.count {
        let answer = match args.url.scheme_str() {
            Some("grpc") => tokio::time::timeout(limit, call(&args.url, &headers)).await??,
            _ => ask(&args, headers.clone(), limit).await?,
        };
        println!("[{number}] Url={}", args.url);
        answer.print(number);
        println!();
    }
    Ok(0)
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn print(&self, number: usize) {
        println!("[{number}] StatusCode={}", self.status);
        for (name, value) in &self.headers {
            let name = crate::httpbin::canonical(name.as_str());
            let value = String::from_utf8_lossy(value.as_bytes());
            println!("[{number}] ResponseHeader={name}:{value}");
        }
        // A blank line would end the answer.
        for line in self.body.lines().filter(|line| !line.is_empty()) {
            println!("[{number} body] {line}");
        }
    }
}

async fn ask(args: &Args, headers: HeaderMap, timeout: Duration) -> anyhow::Result<Answer> {
    let mut ask = Ask::get(args.url.clone(), timeout);
    ask.method = args.method.clone();
    ask.headers = headers;
    let (head, body) = fetch(ask).await?.into_parts();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// One call of the echo service. Its success is told as 200, as the original does.
async fn call(url: &Uri, headers: &HeaderMap) -> anyhow::Result<Answer> {
    let authority = url.authority().context("the URL has no host")?;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{authority}"))?;
    let mut client = tonic::client::Grpc::new(endpoint.connect().await?);
    client.ready().await?;
    let mut request = tonic::Request::new(Echo::default());
    *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers.clone());
    let codec = tonic_prost::ProstCodec::<Echo, Echo>::default();
    let path = http::uri::PathAndQuery::from_static(METHOD);
    let response = client.unary(request, path, codec).await?;
    Ok(Answer {
        status: 200,
        headers: response.metadata().clone().into_headers(),
        body: response.into_inner().message,
    })
}
