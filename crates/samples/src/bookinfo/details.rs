//! Bookinfo details: publisher, pages and language of a book.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// The routes.
pub fn router() -> Router {
    Router::new()
        .route(
            "/health",
            get(|| async { Json(json!({"status": "Details is healthy"})) }),
        )
        .route("/details/{id}", get(details))
}

async fn details(Path(id): Path<String>) -> (StatusCode, Json<Value>) {
    let Ok(id) = id.parse::<i64>() else {
        return (
            StatusCode::BAD_REQUEST,
            Json(json!({"error": "please provide numeric product id"})),
        );
    };
    let book = json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    });
    (StatusCode::OK, Json(book))
}
