//! Errors as OpenAI's API has them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::engine::Error;
use crate::picture::PictureError;
use crate::policy::PolicyError;
use crate::server::worker::Refused;

/// What is wrong with a request, or with the server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    message: String,
    /// The field of the request that it is about.
    param: Option<String>,
    /// What there is to be told in numbers.
    more: Box<Map<String, Value>>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            message: message.into(),
            param: None,
            more: Box::default(),
        }
    }

    /// 400
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400, about a field of the request.
    pub(crate) fn field(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self {
            message: format!("{param}: {message}"),
            param: Some(param),
            ..Self::invalid(String::new())
        }
    }

    /// 401
    pub(crate) fn no_key() -> Self {
        Self {
            code: Some("invalid_api_key"),
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "authentication_error",
                "this server wants an API key: send the header 'Authorization: Bearer KEY'",
            )
        }
    }

    /// 404
    pub(crate) fn no_model(name: &str) -> Self {
        Self {
            code: Some("model_not_found"),
            param: Some("model".to_owned()),
            ..Self::new(
                StatusCode::NOT_FOUND,
                "not_found_error",
                format!("there is no model {name:?}: GET /v1/models lists those that there are"),
            )
        }
    }

    /// 404
    pub(crate) fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found_error",
            "there is nothing at this address",
        )
    }

    /// 405
    pub(crate) fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            "this address is not asked with this method",
        )
    }

    /// 408
    pub(crate) fn too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            "the request took too long to arrive",
        )
    }

    /// 413
    pub(crate) fn too_large(max_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            format!("the request is larger than {max_bytes} bytes, which is the limit"),
        )
    }

    /// 415
    pub(crate) fn no_picture(error: &PictureError) -> Self {
        let status = match error {
            PictureError::Read { .. } => StatusCode::BAD_REQUEST,
            PictureError::TooLarge { .. }
            | PictureError::TooMuchMemory { .. }
            | PictureError::FileTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        };
        Self {
            code: Some("invalid_image"),
            ..Self::new(status, "invalid_request_error", in_one_line(error))
        }
    }

    /// 503
    pub(crate) fn loading() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable_error",
            "the model is being loaded: try again in a few seconds",
        )
    }

    /// 503
    pub(crate) fn full() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable_error",
            "as many requests wait as may: try again in a second",
        )
    }

    /// 500
    pub(crate) fn engine(reason: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", reason)
    }
}

/// An error with what it came from.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line += &format!(": {error}");
        source = error.source();
    }
    line
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = in_one_line(&error);
        let too_much = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable_error",
            message.as_str(),
        );
        match error {
            Error::PromptTooLong {
                n_tokens,
                n_vision,
                n_ctx,
                ..
            } => Self {
                kind: "exceed_context_size_error",
                code: Some("context_length_exceeded"),
                more: Box::new(Map::from_iter([
                    ("n_prompt_tokens".to_owned(), json!(n_tokens)),
                    ("n_vision_tokens".to_owned(), json!(n_vision)),
                    ("n_ctx".to_owned(), json!(n_ctx)),
                ])),
                ..Self::invalid(message)
            },
            Error::NoRoom { .. } | Error::OutOfMemory { .. } => too_much,
            Error::NoProjector { .. } => Self::field(
                "messages",
                "there are pictures, and this model sees none: it was loaded without a projector",
            ),
            Error::OptionRange { name, .. } => Self {
                param: Some(if name == "temp" { "temperature" } else { name }.to_owned()),
                ..Self::invalid(message)
            },
            Error::Policy(_)
            | Error::NoCut { .. }
            | Error::Constraint { .. }
            | Error::Unsupported(_)
            | Error::Markers { .. }
            | Error::EmptyPrompt
            | Error::Template { .. }
            | Error::Tokenize { .. }
            | Error::ImageSize { .. }
            | Error::ImageData { .. }
            | Error::Encode { .. } => Self::invalid(message),
            _ => Self::engine(&message),
        }
    }
}

impl From<PolicyError> for ApiError {
    fn from(error: PolicyError) -> Self {
        Self::field("visipruner", in_one_line(&error))
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Gone => Self::engine("the engine has stopped"),
            Refused::Wrong(error) => error.into(),
        }
    }
}

impl ApiError {
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// `{"error": {...}}`
    pub(crate) fn body(&self) -> Value {
        let mut error = (*self.more).clone();
        error.insert("message".to_owned(), json!(self.message));
        error.insert("type".to_owned(), json!(self.kind));
        error.insert("param".to_owned(), json!(self.param));
        error.insert("code".to_owned(), json!(self.code));
        json!({ "error": error })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
