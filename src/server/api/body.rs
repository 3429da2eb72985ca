//! Bodies of requests, read with errors of our own.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::ApiError;
use crate::server::App;

/// A body of JSON, whatever its content type says. Unknown fields are ignored.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<std::sync::Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &std::sync::Arc<App>) -> Result<Self, ApiError> {
        let bytes = axum::body::Bytes::from_request(request, app)
            .await
            .map_err(|error| rejected(&error, app.options.max_body_bytes))?;
        // twice: a tree first, so that a field of the wrong kind is not told by its column
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::invalid(format!("the body is not JSON: {error}")))?;
        serde_json::from_value(value)
            .map(Self)
            .map_err(|error| ApiError::invalid(format!("the request cannot be read: {error}")))
    }
}

fn rejected(error: &BytesRejection, max_bytes: usize) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::too_large(max_bytes)
    } else {
        ApiError::invalid(format!("the body cannot be read: {}", error.body_text()))
    }
}
