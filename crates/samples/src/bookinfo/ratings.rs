//! Bookinfo ratings: stars per reviewer, kept in memory. `SERVICE_VERSION` can make it unreliable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

type Answer = (StatusCode, Json<Value>);

/// How the service misbehaves on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Half of the reads fail.
    Faulty,
    /// Half of the reads wait for seven seconds.
    Delayed,
    /// Up and down every minute.
    Unavailable,
    /// Up and down every quarter of an hour, health included.
    Unhealthy,
}

impl Fault {
    fn from_env() -> Self {
        match std::env::var("SERVICE_VERSION").as_deref() {
            Ok("v-faulty") => Self::Faulty,
            Ok("v-delayed") => Self::Delayed,
            Ok("v-unavailable") => Self::Unavailable,
            Ok("v-unhealthy") => Self::Unhealthy,
            _ => Self::None,
        }
    }

    /// Whether the service is in a bad phase, `age` after its start.
    fn down(self, age: Duration) -> bool {
        let phase = match self {
            Self::Unavailable => 60,
            Self::Unhealthy => 15 * 60,
            _ => return false,
        };
        (age.as_secs() / phase) % 2 == 1
    }
}

#[derive(Clone)]
struct Ratings {
    fault: Fault,
    started: Instant,
    stored: Arc<Mutex<BTreeMap<i64, Map<String, Value>>>>,
}

/// The routes.
pub fn router() -> Router {
    let state = Ratings {
        fault: Fault::from_env(),
        started: Instant::now(),
        stored: Arc::default(),
    };
    Router::new()
        .route("/health", get(health))
        .route("/ratings/{id}", get(read).post(write))
        .with_state(state)
}

async fn health(State(ratings): State<Ratings>) -> Answer {
    if ratings.fault == Fault::Unhealthy && ratings.fault.down(ratings.started.elapsed()) {
        let status = json!({"status": "Ratings is not healthy"});
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(status));
    }
    (
        StatusCode::OK,
        Json(json!({"status": "Ratings is healthy"})),
    )
}

async fn read(State(ratings): State<Ratings>, Path(id): Path<String>) -> Answer {
    let Ok(id) = id.parse::<i64>() else {
        return refuse("please provide numeric product ID");
    };
    let unlucky = rand::random::<bool>();
    let down = ratings.fault.down(ratings.started.elapsed());
    if down || (ratings.fault == Fault::Faulty && unlucky) {
        let error = json!({"error": "Service unavailable"});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(error));
    }
    if ratings.fault == Fault::Delayed && unlucky {
        tokio::time::sleep(Duration::from_secs(7)).await;
    }
    let stored = ratings
        .stored
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let stars = stored.get(&id).map_or_else(
        || json!({"Reviewer1": 5, "Reviewer2": 4}),
        |stars| Value::Object(stars.clone()),
    );
    (StatusCode::OK, Json(json!({"id": id, "ratings": stars})))
}

async fn write(State(ratings): State<Ratings>, Path(id): Path<String>, body: String) -> Answer {
    let Ok(id) = id.parse::<i64>() else {
        return refuse("please provide numeric product ID");
    };
    let Ok(Value::Object(stars)) = serde_json::from_str(&body) else {
        return refuse("please provide valid ratings JSON");
    };
    let answer = json!({"id": id, "ratings": stars.clone()});
    ratings
        .stored
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(id, stars);
    (StatusCode::OK, Json(answer))
}

fn refuse(why: &str) -> Answer {
    (StatusCode::BAD_REQUEST, Json(json!({"error": why})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_flips_every_minute() {
        let down = |secs| Fault::Unavailable.down(Duration::from_secs(secs));
        assert_eq!(
            [down(0), down(59), down(60), down(120)],
            [false, false, true, false]
        );
        assert!(!Fault::None.down(Duration::from_secs(60)));
    }
}
