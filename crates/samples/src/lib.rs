//! The sample services: Bookinfo, helloworld, httpbin, tcp-echo, echo, and the tools of the curl image.
//!
//! They stand in for the images of the same names, so that Istio's walkthroughs run with nothing
//! installed. Each is a small HTTP or TCP server configured by the environment variables of the
//! original. None of them knows of the mesh.

use clap::Subcommand;

pub mod bookinfo;
pub mod curl;
pub mod echo;
pub mod fetch;
pub mod helloworld;
pub mod httpbin;
pub mod netstat;
pub mod serve;
pub mod sleep;
pub mod tcp_echo;

/// Which sample to run.
#[derive(Debug, Subcommand)]
pub enum Sample {
    /// Bookinfo's front page (port 9080)
    Productpage(serve::Listen),
    /// Bookinfo's book details (port 9080)
    Details(serve::Listen),
    /// Bookinfo's reviews; ENABLE_RATINGS and STAR_COLOR choose the version (port 9080)
    Reviews(serve::Listen),
    /// Bookinfo's ratings (port 9080)
    Ratings(serve::Listen),
    /// Answers /hello with its SERVICE_VERSION (port 5000)
    Helloworld(serve::Listen),
    /// Answers with what it was asked, in the form of go-httpbin (port 8080)
    Httpbin(serve::Listen),
    /// Repeats each line with a prefix
    TcpEcho(tcp_echo::Args),
    /// Answers with what it was asked, over HTTP and gRPC, for the conformance suite (port 8080, 7070)
    #[command(disable_version_flag = true)]
    Echo(echo::Args),
    /// Asks an echo, and prints the answer as numbered lines
    EchoClient(echo::client::Args),
    /// A small HTTP client with curl's options
    #[command(disable_help_flag = true)]
    Curl(curl::Args),
    /// Prints the sockets of this network namespace
    #[command(disable_help_flag = true)]
    Netstat(netstat::Args),
    /// Waits for some seconds, or without end
    Sleep(sleep::Args),
    /// Does nothing until it is told to stop: the first process of a pod's sandbox
    Pause,
}

/// Runs a sample until it ends, and returns the exit code of the process.
///
/// # Errors
/// When a server cannot listen, or a tool cannot read what it needs.
pub async fn run(sample: Sample) -> anyhow::Result<i32> {
    match sample {
        Sample::Productpage(listen) => {
            let upstreams = bookinfo::productpage::Upstreams::from_env();
            serve::http(listen.or(9080), bookinfo::productpage::router(upstreams)).await
        }
        Sample::Details(listen) => serve::http(listen.or(9080), bookinfo::details::router()).await,
        Sample::Reviews(listen) => {
            let config = bookinfo::reviews::Config::from_env();
            serve::http(listen.or(9080), bookinfo::reviews::router(config)).await
        }
        Sample::Ratings(listen) => serve::http(listen.or(9080), bookinfo::ratings::router()).await,
        Sample::Helloworld(listen) => {
            let config = helloworld::Config::from_env();
            serve::http(listen.or(5000), helloworld::router(config)).await
        }
        Sample::Httpbin(listen) => serve::http(listen.or(8080), httpbin::router()).await,
        Sample::TcpEcho(args) => tcp_echo::run(args).await,
        Sample::Echo(args) => echo::run(args).await,
        Sample::EchoClient(args) => echo::client::run(args).await,
        Sample::Curl(args) => Ok(curl::run(args).await),
        Sample::Netstat(args) => netstat::run(&args),
        Sample::Sleep(args) => Ok(sleep::run(args).await),
        Sample::Pause => {
            serve::stop_signal().await;
            Ok(0)
        }
    }
}
