//! `curl` for images that have none: the options that walkthroughs use, with curl's exit codes.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Response, Uri};

use crate::fetch::{Ask, FetchError, fetch};

const MAX_REDIRECTS: usize = 50;

/// curl's options, as far as they are there; an unknown one is an error.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// No progress, no errors
    #[arg(short, long)]
    silent: bool,
    /// Errors in spite of --silent
    #[arg(short = 'S', long)]
    show_error: bool,
    /// Exit code 22 for an error status
    #[arg(short, long)]
    fail: bool,
    /// Print the headers of the answer too
    #[arg(short, long)]
    include: bool,
    /// Ask for headers only
    #[arg(short = 'I', long)]
    head: bool,
    /// Print what is sent and received
    #[arg(short, long)]
    verbose: bool,
    /// Follow redirects
    #[arg(short = 'L', long)]
    location: bool,
    /// Method
    #[arg(short = 'X', long)]
    request: Option<Method>,
    /// A header, "Name: value"
    #[arg(short = 'H', long)]
    header: Vec<String>,
    /// Body; the method becomes POST
    #[arg(short, long)]
    data: Vec<String>,
    /// Cookies
    #[arg(short = 'b', long)]
    cookie: Option<String>,
    /// User agent
    #[arg(short = 'A', long)]
    user_agent: Option<String>,
    /// Where the body goes
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Printed at the end; %{http_code} and a few others are filled in
    #[arg(short, long)]
    write_out: Option<String>,
    /// Bound on the whole, in seconds
    #[arg(short, long)]
    max_time: Option<f64>,
    /// Bound on the connection, in seconds
    #[arg(long)]
    connect_timeout: Option<f64>,
    /// Try again that many times after a transient failure
    #[arg(long, default_value_t = 0)]
    retry: u32,
    /// Seconds between tries
    #[arg(long, default_value_t = 1)]
    retry_delay: u64,
    /// Count a refused connection as transient
    #[arg(long)]
    retry_connrefused: bool,
    /// URLs
    #[arg(required = true)]
    urls: Vec<String>,
}

/// Fetches every URL, and returns curl's exit code for the last failure.
pub async fn run(args: Args) -> i32 {
    let mut code = 0;
    for url in &args.urls {
        if let Err(failure) = transfer(&args, url).await {
            if !args.silent || args.show_error {
                eprintln!("curl: ({}) {}", failure.code, failure.text);
            }
            code = failure.code;
        }
    }
    code
}

struct Failure {
    code: i32,
    text: String,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let code = match &error {
            FetchError::Url(_) => 3,
            FetchError::Resolve(_) => 6,
            FetchError::Connect(..) => 7,
            FetchError::Timeout(_) => 28,
            FetchError::Transfer(cause) if cause.is_incomplete_message() => 52,
            FetchError::Transfer(_) => 56,
        };
        let text = match &error {
            FetchError::Transfer(cause) if cause.is_incomplete_message() => {
                "Empty reply from server".to_owned()
            }
            FetchError::Transfer(cause) => match std::error::Error::source(cause) {
                Some(why) => format!("Recv failure: {why}"),
                None => format!("Recv failure: {cause}"),
            },
            other => other.to_string(),
        };
        Self { code, text }
    }
}

async fn transfer(args: &Args, url: &str) -> Result<(), Failure> {
    let started = Instant::now();
    let mut tries_left = args.retry;
    let answer = loop {
        match follow(args, url).await {
            Err(FetchError::Connect(..)) if args.retry_connrefused && tries_left > 0 => {}
            Err(FetchError::Timeout(_)) if tries_left > 0 => {}
            Ok(answer) if answer.status().is_server_error() && tries_left > 0 => {}
            other => break other?,
        }
        tries_left -= 1;
        tokio::time::sleep(Duration::from_secs(args.retry_delay)).await;
    };
    let status = answer.status();
    if args.fail && (status.is_client_error() || status.is_server_error()) {
        write_out(args, &answer, started);
        let text = format!("The requested URL returned error: {}", status.as_u16());
        return Err(Failure { code: 22, text });
    }
    print(args, &answer).map_err(|error| Failure {
        code: 23,
        text: format!("Failed writing body: {error}"),
    })?;
    write_out(args, &answer, started);
    Ok(())
}

async fn follow(args: &Args, url: &str) -> Result<Response<Bytes>, FetchError> {
    let mut url = absolute(url)?;
    for _ in 0..MAX_REDIRECTS {
        let ask = ask(args, url.clone())?;
        if args.verbose {
            eprintln!("> {} {} HTTP/1.1", ask.method, url.path());
        }
        let answer = fetch(ask).await?;
        if args.verbose {
            eprint!("{}", head_of(&answer, "< "));
        }
        let next = answer
            .headers()
            .get(LOCATION)
            .and_then(|to| to.to_str().ok());
        match next {
            Some(to) if args.location && answer.status().is_redirection() => {
                url = redirect(&url, to)?;
            }
            _ => return Ok(answer),
        }
    }
    Err(FetchError::Url(format!(
        "{url} (more than {MAX_REDIRECTS} redirects)"
    )))
}

fn absolute(url: &str) -> Result<Uri, FetchError> {
    let full = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let parsed = url::Url::parse(&full).map_err(|_| FetchError::Url(url.to_owned()))?;
    parsed
        .as_str()
        .parse()
        .map_err(|_| FetchError::Url(url.to_owned()))
}

fn redirect(from: &Uri, to: &str) -> Result<Uri, FetchError> {
    let refuse = || FetchError::Url(to.to_owned());
    let base = url::Url::parse(&from.to_string()).map_err(|_| refuse())?;
    base.join(to)
        .map_err(|_| refuse())?
        .as_str()
        .parse()
        .map_err(|_| refuse())
}

fn ask(args: &Args, url: Uri) -> Result<Ask, FetchError> {
    let mut headers = HeaderMap::new();
    let agent = args.user_agent.as_deref().unwrap_or("curl/8.16.0");
    let mut insert = |name: &str, value: &str| -> Option<()> {
        let name: HeaderName = name.trim().parse().ok()?;
        headers.insert(name, HeaderValue::from_str(value.trim()).ok()?);
        Some(())
    };
    insert(USER_AGENT.as_str(), agent);
    insert("accept", "*/*");
    if !args.data.is_empty() {
        insert(CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded");
    }
    if let Some(cookie) = &args.cookie {
        insert("cookie", cookie);
    }
    for header in &args.header {
        let parsed = header
            .split_once(':')
            .and_then(|(name, value)| insert(name, value));
        parsed.ok_or_else(|| FetchError::Url(format!("header {header:?}")))?;
    }
    let default = match (args.head, args.data.is_empty()) {
        (true, _) => Method::HEAD,
        (false, true) => Method::GET,
        (false, false) => Method::POST,
    };
    let seconds = args.max_time.or(args.connect_timeout).unwrap_or(300.0);
    Ok(Ask {
        method: args.request.clone().unwrap_or(default),
        url,
        headers,
        body: args.data.join("&").into(),
        timeout: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(300)),
    })
}

fn head_of(answer: &Response<Bytes>, prefix: &str) -> String {
    let mut head = format!("{prefix}{:?} {}\r\n", answer.version(), answer.status());
    for (name, value) in answer.headers() {
        head.push_str(&format!(
            "{prefix}{name}: {}\r\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    head + prefix.trim_end() + "\r\n"
}

fn print(args: &Args, answer: &Response<Bytes>) -> std::io::Result<()> {
    let mut out: Box<dyn std::io::Write> = match &args.output {
        Some(path) => Box::new(std::fs::File::create(path)?),
        None => Box::new(std::io::stdout()),
    };
    if args.include || args.head {
        out.write_all(head_of(answer, "").as_bytes())?;
    }
    out.write_all(answer.body())?;
    out.flush()
}

fn write_out(args: &Args, answer: &Response<Bytes>, started: Instant) {
    let Some(format) = &args.write_out else {
        return;
    };
    let text = format
        .replace("%{http_code}", &answer.status().as_u16().to_string())
        .replace("%{response_code}", &answer.status().as_u16().to_string())
        .replace("%{size_download}", &answer.body().len().to_string())
        .replace(
            "%{time_total}",
            &format!("{:.6}", started.elapsed().as_secs_f64()),
        )
        .replace("\\n", "\n")
        .replace("\\t", "\t");
    print!("{text}");
    let _ = std::io::stdout().flush();
}
