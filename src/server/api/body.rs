//! Bodies of requests, read with errors of our own.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ApiError;
use crate::server::{App, Room};

/// A body of JSON, whatever its content type says, and room for the request. Unknown fields are ignored.
pub(crate) struct Body<T> {
    pub(crate) asked: T,
    /// Held until the request has ended: pictures and answers of so many requests are in memory at most.
    pub(crate) room: Room,
}

/// What a body is read as.
pub(crate) trait FromJson: Sized + Send + 'static {
    /// # Errors
    /// 400 with the field that is wrong.
    fn from_json(value: &Value) -> Result<Self, ApiError>;
}

impl<T: FromJson> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let max_bytes = app.options.max_body_bytes;
        let n_bytes = match announced(request.headers()) {
            Some(n_bytes) if n_bytes > max_bytes as u64 => return Err(ApiError::too_large(max_bytes)),
            Some(n_bytes) => n_bytes as usize,
            None => max_bytes,
        };
        let receiving = async {
            let memory = app.memory_for(n_bytes).await?;
            let bytes = Bytes::from_request(request, app).await;
            let bytes = bytes.map_err(|error| rejected(&error, max_bytes))?;
            Ok::<_, ApiError>((memory, bytes))
        };
        let (memory, bytes) = tokio::time::timeout(app.options.body_timeout, receiving)
            .await
            .map_err(|_| ApiError::too_slow())??;
        // those that are slow to send take no room
        let room = app.room()?;
        // pictures make it long: others go on meanwhile
        let parsing = tokio::task::spawn_blocking(move || {
            let _memory = memory;
            let value: Value = serde_json::from_slice(&bytes)
                .map_err(|error| ApiError::invalid(format!("the body is not JSON: {error}")))?;
            T::from_json(&value)
        });
        let parsed = parsing
            .await
            .map_err(|error| ApiError::engine(&error.to_string()))?;
        parsed.map(|asked| Self { asked, room })
    }
}

/// Some fields of an object.
///
/// # Errors
/// 400 with the field that is wrong.
pub(super) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, ApiError> {
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
