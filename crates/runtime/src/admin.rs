//! The routes that every process has on its admin and readiness ports.
//!
//! A role adds its own pages (`/config_dump`, for example) with [`Router::merge`] before it calls
//! [`with_index`].

use ::http::StatusCode;

use crate::http::{Reply, Request, Router, reply, text};
use crate::log;
use crate::ready::Ready;
use crate::signals::Shutdown;

/// `/logging` and `/quitquitquit`.
pub fn routes(shutdown: Shutdown) -> Router {
    Router::new()
        .post("/logging", |request| async move { logging(&request) })
        .post("/quitquitquit", move |_| {
            let shutdown = shutdown.clone();
            async move {
                tracing::info!("shutdown requested on the admin port");
                shutdown.trigger();
                text(StatusCode::OK, "shutdown now\n")
            }
        })
}

/// Adds an index page at `/` that links every `GET` route.
pub fn with_index(router: Router, title: &str) -> Router {
    let mut page = format!("<!doctype html>\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n");
    for path in router.pages() {
        page.push_str(&format!("<li><a href=\"{path}\">{path}</a></li>\n"));
    }
    page.push_str("</ul>\n");
    router.get("/", move |_| {
        let page = page.clone();
        async move { reply(StatusCode::OK, "text/html; charset=utf-8", page) }
    })
}

/// A readiness page: 200 `ready`, or 500 with the names of the pending tasks.
pub fn readiness(path: &str, ready: Ready) -> Router {
    Router::new().get(path, move |_| {
        let ready = ready.clone();
        async move {
            match ready.report() {
                Ok(body) => text(StatusCode::OK, body),
                Err(body) => text(StatusCode::INTERNAL_SERVER_ERROR, body),
            }
        }
    })
}

/// `POST /logging[?reset][&level=a,scope=b]` shows or changes the log level.
fn logging(request: &Request) -> Reply {
    let reset = request.query.get("reset").is_some();
    let change = request.query.get("level").unwrap_or_default();
    if (reset || !change.is_empty())
        && let Err(error) = log::change_level(reset, change)
    {
        let message = format!(
            "{error}\nusage: POST /logging?level=<off|error|warn|info|debug|trace>,<scope>=<level>\n"
        );
        return text(StatusCode::BAD_REQUEST, message);
    }
    text(
        StatusCode::OK,
        format!("current log level is {}\n", log::current_level()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Query;
    use ::http::{HeaderMap, Method};
    use bytes::Bytes;
    use http_body_util::BodyExt;

    async fn send(router: &Router, method: Method, path: &str, query: &str) -> (u16, String) {
        let request = Request {
            method,
            path: path.to_owned(),
            query: Query::parse(query),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let reply = router.answer(request).await;
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn quit_asks_for_an_orderly_end() {
        let shutdown = Shutdown::new();
        let router = routes(shutdown.clone());
        assert_eq!(send(&router, Method::GET, "/quitquitquit", "").await.0, 405);
        assert!(!shutdown.is_requested());
        let answer = send(&router, Method::POST, "/quitquitquit", "").await;
        assert_eq!(answer, (200, "shutdown now\n".to_owned()));
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn the_log_level_is_shown_changed_and_reset() {
        let router = routes(Shutdown::new());
        let post = async |query| send(&router, Method::POST, "/logging", query).await;
        let before = post("").await;
        assert_eq!(before.0, 200);
        assert!(
            before.1.starts_with("current log level is "),
            "{}",
            before.1
        );
        // The log of the test process is shared, so only a scope of this test is changed.
        let (status, body) = post("level=admin_test=debug").await;
        assert_eq!(status, 200);
        assert!(
            body.starts_with("current log level is admin_test=debug,"),
            "{body}"
        );
        assert_eq!(post("level=nonsense").await.0, 400);
        assert_eq!(post("reset").await, before);
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let ready = Ready::new();
        let task = ready.task("state manager");
        let router = readiness("/healthz/ready", ready);
        let get = async || send(&router, Method::GET, "/healthz/ready", "").await;
        assert_eq!(
            get().await,
            (500, "not ready, pending: state manager\n".to_owned())
        );
        task.ready();
        assert_eq!(get().await, (200, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn the_index_links_pages() {
        let router = Router::new().get("/config_dump", |_| async { text(StatusCode::OK, "") });
        let (status, page) = send(&with_index(router, "ztunnel"), Method::GET, "/", "").await;
        assert_eq!(status, 200);
        assert!(page.contains("<a href=\"/config_dump\">"), "{page}");
    }
}
