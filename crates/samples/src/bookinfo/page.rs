//! The HTML of productpage. Everything that comes from elsewhere is escaped.

use std::fmt::Write as _;

use axum::http::StatusCode;
use serde_json::Value;

use super::productpage::Upstreams;

/// Title of the only book.
pub const TITLE: &str = "The Comedy of Errors";
/// What is said about it.
pub const DESCRIPTION: &str = "<i>The Comedy of Errors</i> is one of Shakespeare's early plays: \
     two pairs of twins, parted at birth, and a day of mistaken identities.";
/// The style sheet.
pub const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem}\
header{display:flex;justify-content:space-between;align-items:baseline;border-bottom:1px solid #8884}\
main{display:grid;grid-template-columns:1fr 1fr;gap:2rem}\
table{border-collapse:collapse;width:100%}td,th{border:1px solid #8884;padding:.3rem .6rem;text-align:left}\
blockquote{margin:1rem 0;padding-left:1rem;border-left:3px solid #8886}\
svg{width:1.1em;height:1.1em;vertical-align:-.15em}.text-red-500{color:#dc2626}.text-black-500{color:inherit}\
.error{color:#b91c1c}footer{color:#888;font-size:.9em}\
@media(max-width:45rem){main{grid-template-columns:1fr}}";

const STAR: &str = "M12 2l3 7h7l-5.5 4.5L18.5 21 12 16.5 5.5 21l2-7.5L2 9h7z";

fn escape(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            match c {
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '&' => out.push_str("&amp;"),
                '"' => out.push_str("&quot;"),
                c => out.push(c),
            }
            out
        })
}

fn document(body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>Simple Bookstore App</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"stylesheet\" href=\"/static/style.css\">\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
}

/// The entry page: which services there are, and links to the book.
pub fn index(upstreams: &Upstreams) -> String {
    let row = |name: &str, url: &str, children: &str| {
        format!(
            "<tr><td>{}</td><td>{}</td><td>{children}</td></tr>",
            escape(name),
            escape(url)
        )
    };
    document(&format!(
        "<h1>Hello! This is a simple bookstore application consisting of three services</h1>\n\
         <table><tr><th>name</th><th>endpoint</th><th>children</th></tr>{}{}{}</table>\n\
         <p><a href=\"/productpage?u=normal\">Normal user</a> \
         <a href=\"/productpage?u=test\">Test user</a></p>",
        row("details", &upstreams.details, ""),
        row("reviews", &upstreams.reviews, "ratings"),
        row("ratings", &upstreams.ratings, ""),
    ))
}

/// The book with what details and reviews answered.
pub fn product(
    user: Option<&str>,
    details: &(StatusCode, Value),
    reviews: &(StatusCode, Value),
) -> String {
    let session = match user {
        Some(user) => format!("<b>{}</b> (<a href=\"/logout\">sign out</a>)", escape(user)),
        None => "<form method=\"post\" action=\"/login\">\
                 <input name=\"username\" placeholder=\"User name\">\
                 <input name=\"passwd\" type=\"password\" placeholder=\"Password\">\
                 <button>Sign in</button></form>"
            .to_owned(),
    };
    document(&format!(
        "<header><b>BookInfo Sample</b><span>{session}</span></header>\n\
         <h1>{TITLE}</h1>\n<p>{DESCRIPTION}</p>\n<main>\n<section>{}</section>\n\
         <section>{}</section>\n</main>",
        details_section(details),
        reviews_section(reviews),
    ))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn failure(title: &str, body: &Value) -> String {
    format!(
        "<h2>{title}</h2><p class=\"error\">{}</p>",
        escape(text(body, "error"))
    )
}

fn details_section((status, book): &(StatusCode, Value)) -> String {
    if *status != StatusCode::OK {
        return failure("Error fetching product details", book);
    }
    let pages = book
        .get("pages")
        .map(ToString::to_string)
        .unwrap_or_default();
    let rows = [
        ("ISBN-10", text(book, "ISBN-10")),
        ("Publisher", text(book, "publisher")),
        ("Pages", &pages),
        ("Type", text(book, "type")),
        ("Language", text(book, "language")),
    ];
    let mut html = String::from("<h2>Book Details</h2><table>");
    for (name, value) in rows {
        let _ = write!(html, "<tr><th>{name}</th><td>{}</td></tr>", escape(value));
    }
    html + "</table>"
}

fn reviews_section((status, answer): &(StatusCode, Value)) -> String {
    if *status != StatusCode::OK {
        return failure("Error fetching product reviews", answer);
    }
    let mut html = String::from("<h2>Book Reviews</h2>");
    for review in answer
        .get("reviews")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let _ = write!(
            html,
            "<blockquote><p>\"{}\"</p><small>{}</small>{}</blockquote>",
            escape(text(review, "text")),
            escape(text(review, "reviewer")),
            review.get("rating").map(stars).unwrap_or_default(),
        );
    }
    let _ = write!(
        html,
        "<footer>Reviews served by: {}",
        escape(text(answer, "podname"))
    );
    match text(answer, "clustername") {
        "" | "null" => {}
        cluster => {
            let _ = write!(html, " on cluster {}", escape(cluster));
        }
    }
    html + "</footer>"
}

fn stars(rating: &Value) -> String {
    let Some(count) = rating.get("stars").and_then(Value::as_u64) else {
        return format!("<p class=\"error\">{}</p>", escape(text(rating, "error")));
    };
    let color = if text(rating, "color") == "red" {
        "red"
    } else {
        "black"
    };
    let star = |id: &str, fill: &str| {
        format!(
            "<svg id=\"{id}\" viewBox=\"0 0 24 24\" fill=\"{fill}\" stroke=\"currentColor\">\
             <path d=\"{STAR}\"/></svg>"
        )
    };
    let full = usize::try_from(count.min(5)).unwrap_or(5);
    format!(
        "<div class=\"text-{color}-500\">{}{}</div>",
        star("glyphicon glyphicon-star", "currentColor").repeat(full),
        star("glyphicon glyphicon-star-empty", "none").repeat(5 - full),
    )
}
