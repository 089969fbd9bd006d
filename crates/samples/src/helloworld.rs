//! helloworld: says which version and instance answered.

use axum::Router;
use axum::extract::State;
use axum::routing::get;

/// What an instance says of itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SERVICE_VERSION`.
    pub version: String,
    /// `HOSTNAME`, which is the pod's name.
    pub instance: String,
}

impl Config {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let var = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        Self {
            version: var("SERVICE_VERSION", "unknown"),
            instance: var("HOSTNAME", "unknown"),
        }
    }
}

/// The routes.
pub fn router(config: Config) -> Router {
    Router::new()
        .route("/hello", get(hello))
        .route("/health", get(|| async { "Helloworld is healthy" }))
        .with_state(config)
}

async fn hello(State(config): State<Config>) -> String {
    // The original burns processor time so that autoscaling has something to see.
    std::hint::black_box((1..1_000_000_u32).fold(0.0, |sum, n| sum + f64::from(n).sqrt()));
    format!(
        "Hello version: {}, instance: {}\n",
        config.version, config.instance
    )
}
