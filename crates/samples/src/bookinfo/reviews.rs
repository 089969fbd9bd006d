//! Bookinfo reviews: two reviews of a book, with stars in v2 (black) and v3 (red).

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

/// Text of the first review; the demo looks for it on the wire.
pub const FIRST_REVIEW: &str = "An extremely entertaining play by Shakespeare. \
     The slapstick humour is refreshing!";
const SECOND_REVIEW: &str = "Absolutely fun and entertaining. \
     The play lacks thematic depth when compared to other plays by Shakespeare.";

/// What makes one version differ from another.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ENABLE_RATINGS`: whether stars are shown.
    pub ratings: bool,
    /// `STAR_COLOR`.
    pub color: String,
    /// `HOSTNAME`.
    pub pod: String,
    /// `CLUSTER_NAME`.
    pub cluster: String,
    /// Where ratings is found.
    pub ratings_url: String,
}

impl Config {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let var = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        Self {
            ratings: var("ENABLE_RATINGS", "false").eq_ignore_ascii_case("true"),
            color: var("STAR_COLOR", "black"),
            pod: var("HOSTNAME", "null"),
            cluster: var("CLUSTER_NAME", "null"),
            ratings_url: super::base_url("ratings"),
        }
    }

    /// Black stars are waited for longer, so that a delay in ratings shows in v2 alone.
    fn patience(&self) -> Duration {
        if self.color == "black" {
            Duration::from_secs(10)
        } else {
            Duration::from_millis(2500)
        }
    }
}

/// The routes.
pub fn router(config: Config) -> Router {
    Router::new()
        .route(
            "/health",
            get(|| async { Json(json!({"status": "Reviews is healthy"})) }),
        )
        .route("/reviews/{id}", get(reviews))
        .with_state(config)
}

async fn reviews(
    State(config): State<Config>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> (StatusCode, Json<Value>) {
    if id.parse::<i64>().is_err() {
        let error = json!({"error": "please provide numeric product id"});
        return (StatusCode::BAD_REQUEST, Json(error));
    }
    let stars = if config.ratings {
        Some(stars(&config, &id, &headers).await)
    } else {
        None
    };
    let review = |reviewer: &str, text: &str| {
        let mut review = Map::new();
        review.insert("reviewer".into(), reviewer.into());
        review.insert("text".into(), text.into());
        if let Some(stars) = &stars {
            review.insert(
                "rating".into(),
                rating(stars.as_ref(), reviewer, &config.color),
            );
        }
        Value::Object(review)
    };
    let answer = json!({
        "id": id,
        "podname": config.pod,
        "clustername": config.cluster,
        "reviews": [review("Reviewer1", FIRST_REVIEW), review("Reviewer2", SECOND_REVIEW)],
    });
    (StatusCode::OK, Json(answer))
}

/// The stars by reviewer, or `None` where ratings does not answer well.
async fn stars(config: &Config, id: &str, headers: &HeaderMap) -> Option<Value> {
    let url = format!("{}/ratings/{id}", config.ratings_url);
    let asked = super::ask_json(url, super::forwarded(headers), config.patience()).await;
    match asked {
        Ok((StatusCode::OK, answer)) => answer.get("ratings").cloned(),
        Ok((status, _)) => {
            eprintln!("ratings answered {status}");
            None
        }
        Err(error) => {
            eprintln!("ratings did not answer: {error}");
            None
        }
    }
}

fn rating(stars: Option<&Value>, reviewer: &str, color: &str) -> Value {
    match stars.and_then(|stars| stars.get(reviewer)) {
        Some(stars) => json!({"stars": stars, "color": color}),
        None => json!({"error": "Ratings service is currently unavailable"}),
    }
}
