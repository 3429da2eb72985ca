//! The addresses of the server.

mod answer;
mod body;
mod chat;
mod common;
mod completions;
mod error;
mod messages;
mod pruning;
mod sampling;
mod status;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use subtle::{Choice, ConstantTimeEq};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

pub(crate) use error::ApiError;

use super::{App, page};

/// All addresses, with what guards them.
pub(super) fn router(app: &Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/chat/completions", post(chat::completions))
        .route("/v1/chat/completions/input_tokens", post(chat::input_tokens))
        .route("/chat/completions/input_tokens", post(chat::input_tokens))
        .route("/v1/completions", post(completions::completions))
        .route("/apply-template", post(chat::apply_template))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/metrics", get(status::metrics))
        .route("/props", get(status::props))
        .route("/slots", get(status::slots))
        .layer(from_fn_with_state(Arc::clone(app), with_key));
    let open = Router::new()
        .route("/", get(page::page))
        .route("/health", get(status::health))
        .route("/v1/health", get(status::health))
        .route("/models", get(status::models))
        .route("/v1/models", get(status::models))
        .route("/v1/models/{*id}", get(status::one_model));
    guarded
        .merge(open)
        .fallback(async || ApiError::no_such_path())
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .layer(DefaultBodyLimit::max(app.options.max_body_bytes))
        .layer(cors(&app.options.cors_origins))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(Arc::clone(app))
}

/// Lets requests with a key pass, in either of the headers that clients use; all of them if there are no keys. How long it
/// takes does not tell how much of a key was right.
async fn with_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let keys = &app.options.api_keys;
    if keys.is_empty() {
        return next.run(request).await;
    }
    let headers = request.headers();
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let given = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
    let is_known = |given: &[u8]| {
        let equal = keys.iter().map(|key| key.as_bytes().ct_eq(given));
        bool::from(equal.fold(Choice::from(0), |any, equal| any | equal))
    };
    if given.is_some_and(is_known) {
        next.run(request).await
    } else {
        ApiError::no_key().into_response()
    }
}

fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
}

/// What a handler that panicked answers.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::engine("this request met an error of the program").into_response()
}
