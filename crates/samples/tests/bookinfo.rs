//! The four services of Bookinfo, talking to each other over loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::time::Duration;

use ambit_samples::bookinfo::{details, productpage, ratings, reviews};
use ambit_samples::fetch::{Ask, fetch};
use axum::Router;
use http::{HeaderMap, Method, StatusCode};

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    format!("http://{address}")
}

/// A URL on which nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn bookinfo(color: &str, ratings_url: String) -> String {
    let reviews = reviews::Config {
        ratings: true,
        color: color.into(),
        pod: "reviews-pod".into(),
        cluster: "null".into(),
        ratings_url: ratings_url.clone(),
    };
    let upstreams = productpage::Upstreams {
        details: serve(details::router()).await,
        reviews: serve(reviews::router(reviews)).await,
        ratings: ratings_url,
        flood: 0,
    };
    serve(productpage::router(upstreams)).await
}

async fn get(url: String) -> (StatusCode, String) {
    let answer = fetch(Ask::get(url.parse().unwrap(), Duration::from_secs(20)))
        .await
        .unwrap();
    (
        answer.status(),
        String::from_utf8(answer.body().to_vec()).unwrap(),
    )
}

#[tokio::test]
async fn the_page_shows_details_reviews_and_stars() {
    let page = bookinfo("red", serve(ratings::router()).await).await;
    let (status, html) = get(format!("{page}/productpage")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        html.contains("<title>Simple Bookstore App</title>"),
        "{html}"
    );
    assert!(
        html.contains("Book Details") && html.contains("PublisherA"),
        "{html}"
    );
    assert!(
        html.contains("An extremely entertaining play by Shakespeare."),
        "{html}"
    );
    assert!(html.contains("text-red-500"), "{html}");
    assert_eq!(
        html.matches("id=\"glyphicon glyphicon-star\"").count(),
        9,
        "5 + 4 stars: {html}"
    );
    assert!(html.contains("Reviews served by: reviews-pod"), "{html}");

    let (_, metrics) = get(format!("{page}/metrics")).await;
    assert!(
        metrics.contains("destination_app=\"details\",response_code=\"200\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_missing_service_shows_in_its_own_box_only() {
    let page = bookinfo("black", nobody().await).await;
    let (_, html) = get(format!("{page}/productpage")).await;
    assert!(
        html.contains("Ratings service is currently unavailable"),
        "{html}"
    );
    assert!(html.contains("PublisherA"), "{html}");
    let (status, body) = get(format!("{page}/api/v1/products/0/ratings")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        body.contains("Sorry, product ratings are currently unavailable"),
        "{body}"
    );
}

#[tokio::test]
async fn ratings_are_stored_and_bad_input_is_refused() {
    let url = serve(ratings::router()).await;
    let post = |path: &str, body: &'static str| {
        let url = format!("{url}{path}").parse().unwrap();
        fetch(Ask {
            method: Method::POST,
            body: body.into(),
            headers: HeaderMap::new(),
            ..Ask::get(url, Duration::from_secs(5))
        })
    };
    assert_eq!(
        post("/ratings/7", r#"{"Reviewer1":1}"#)
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        get(format!("{url}/ratings/7")).await.1,
        r#"{"id":7,"ratings":{"Reviewer1":1}}"#
    );
    assert_eq!(post("/ratings/7", "nonsense").await.unwrap().status(), 400);
    assert_eq!(
        get(format!("{url}/ratings/x")).await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn who_is_logged_in_comes_from_the_session_and_is_escaped() {
    let page = bookinfo("black", serve(ratings::router()).await).await;
    let login = fetch(Ask {
        method: Method::POST,
        body: "username=%3Cb%3Ejason&passwd=x".into(),
        ..Ask::get(
            format!("{page}/login").parse().unwrap(),
            Duration::from_secs(5),
        )
    });
    let login = login.await.unwrap();
    assert_eq!(login.status(), StatusCode::FOUND);
    let cookie = login.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let mut ask = Ask::get(
        format!("{page}/productpage").parse().unwrap(),
        Duration::from_secs(5),
    );
    ask.headers.insert("cookie", cookie.parse().unwrap());
    let html = String::from_utf8(fetch(ask).await.unwrap().body().to_vec()).unwrap();
    assert!(html.contains("&lt;b&gt;jason"), "{html}");
}
