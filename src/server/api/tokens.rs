//! `POST /tokenize` and `/detokenize`, as llama-server has them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use super::body::{Body, FromJson, read};
use crate::engine::Model;
use crate::server::App;

#[derive(Debug, Deserialize)]
pub(super) struct Text {
    model: Option<String>,
    content: String,
    add_special: Option<bool>,
    parse_special: Option<bool>,
    with_pieces: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tokens {
    model: Option<String>,
    tokens: Vec<i32>,
}

impl FromJson for Text {
    fn from_json(value: &Value) -> Result<Self, ApiError> {
        read(value)
    }
}

impl FromJson for Tokens {
    fn from_json(value: &Value) -> Result<Self, ApiError> {
        read(value)
    }
}

pub(super) async fn tokenize(
    State(app): State<Arc<App>>,
    Body { asked: text, .. }: Body<Text>,
) -> Result<Json<Value>, ApiError> {
    let entry = app.models.find(text.model.as_deref())?.entry;
    let worker = app.ready(&entry).await?;
    let model = worker.model().clone();
    beside(move || tokenize_with(&model, &text)).await?
}

/// Long texts take their time.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let working = tokio::task::spawn_blocking(work);
    working
        .await
        .map_err(|error| ApiError::engine(&error.to_string()))
}

fn tokenize_with(model: &Model, text: &Text) -> Result<Json<Value>, ApiError> {
    let parse_special = text.parse_special.unwrap_or(true);
    let tokens = model.tokenize(&text.content, text.add_special.unwrap_or(false), parse_special)?;
    if text.with_pieces != Some(true) {
        return Ok(Json(json!({ "tokens": tokens })));
    }
    let with_pieces = tokens.iter().map(|&token| {
        let bytes = model.token_bytes(token);
        match String::from_utf8(bytes) {
            Ok(piece) => json!({"id": token, "piece": piece}),
            Err(error) => json!({"id": token, "piece": error.into_bytes()}),
        }
    });
    Ok(Json(json!({ "tokens": with_pieces.collect::<Vec<_>>() })))
}

pub(super) async fn detokenize(
    State(app): State<Arc<App>>,
    Body { asked: tokens, .. }: Body<Tokens>,
) -> Result<Json<Value>, ApiError> {
    let entry = app.models.find(tokens.model.as_deref())?.entry;
    let worker = app.ready(&entry).await?;
    let model = worker.model().clone();
    if let Some(token) = tokens.tokens.iter().find(|&&token| !model.has_token(token)) {
        return Err(ApiError::field(
            "tokens",
            format!("{token} is no token of the model"),
        ));
    }
    let content = beside(move || model.detokenize(&tokens.tokens, true)).await?;
    Ok(Json(json!({ "content": content })))
}
