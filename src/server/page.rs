//! The page that is shown at `/`.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use uuid::Uuid;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script each for: what all share, the server's API, policies, pictures, what was seen of them, what an answer cost, the
/// panel with both, the conversation, and what starts them.
const SCRIPTS: [&str; 9] = [
    include_str!("page/elements.js"),
    include_str!("page/server.js"),
    include_str!("page/policies.js"),
    include_str!("page/pictures.js"),
    include_str!("page/overlay.js"),
    include_str!("page/costs.js"),
    include_str!("page/seen.js"),
    include_str!("page/talk.js"),
    include_str!("page/start.js"),
];

/// Style and script in their places.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    TEMPLATE
        .replace("{{style}}", STYLE)
        .replace("{{script}}", &SCRIPTS.concat())
});

/// One file without anything from elsewhere, so that it works offline. Nothing runs in it but what bears the response's nonce.
pub(super) async fn page() -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        // the nonce is for this response alone
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, Html(PAGE.replace("{{nonce}}", &nonce))).into_response()
}
