//! Bodies of requests, read with errors of our own.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::ApiError;
use crate::server::{App, Room};

/// A body of JSON, whatever its content type says, and room for the request. Unknown fields are ignored.
pub(crate) struct Body<T> {
    pub(crate) asked: T,
    /// Held until the request has ended: bodies, pictures and answers of so many requests are in memory at most.
    pub(crate) room: Room,
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let max_bytes = app.options.max_body_bytes;
        if announced(request.headers()).is_some_and(|n_bytes| n_bytes > max_bytes as u64) {
            return Err(ApiError::too_large(max_bytes));
        }
        let room = app.room()?;
        let reading = Bytes::from_request(request, app);
        let bytes = tokio::time::timeout(app.options.body_timeout, reading)
            .await
            .map_err(|_| ApiError::too_slow())?
            .map_err(|error| rejected(&error, max_bytes))?;
        // pictures make it long: others go on meanwhile
        let parsing = tokio::task::spawn_blocking(move || parse(&bytes));
        let parsed = parsing
            .await
            .map_err(|error| ApiError::engine(&error.to_string()))?;
        parsed.map(|asked| Self { asked, room })
    }
}

/// As a tree first: what is of the wrong kind is told by its field, and not by its column.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let value: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::invalid(format!("the body is not JSON: {error}")))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        match path.as_str() {
            "." | "?" => ApiError::invalid(format!("the request cannot be read: {error}")),
            _ => ApiError::field(path, error),
        }
    })
}

/// The length that the head of a request tells.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn rejected(error: &BytesRejection, max_bytes: usize) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::too_large(max_bytes)
    } else {
        ApiError::invalid(format!("the body cannot be read: {}", error.body_text()))
    }
}
