//! `POST /v1/chat/completions`, and what it would cost.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Kind};
use super::body::{Body, FromJson, read};
use super::common::Common;
use super::messages::{Conversation, Message};
use super::sampling::{AnswerFields, Defaults};
use super::{ApiError, pruning};
use crate::engine::Request;
use crate::server::App;
use crate::server::models::Asked;
use crate::server::worker::{StopOnDrop, Worker};

/// What is understood of a request. The rest is ignored.
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    messages: Vec<Message>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    tools: Option<Value>,
    functions: Option<Value>,
    #[serde(skip)]
    common: Common,
    #[serde(skip)]
    answer: AnswerFields,
}

impl FromJson for ChatRequest {
    fn from_json(value: &Value) -> Result<Self, ApiError> {
        Ok(Self {
            common: read(value)?,
            answer: read(value)?,
            ..read(value)?
        })
    }
}

/// Most alternatives that are told beside each token.
pub(super) const MAX_TOP_LOGPROBS: usize = 20;

pub(super) async fn completions(
    State(app): State<Arc<App>>,
    Body { asked, room }: Body<ChatRequest>,
) -> Result<Response, ApiError> {
    let Prepared {
        worker,
        request,
        stop,
    } = asked.prepare(&app).await?;
    let has_logprobs = request.n_logprobs.is_some();
    let wanted = asked.common.wanted(Kind::Chat, has_logprobs, &worker, &app);
    let answer = Answer::new(wanted, worker.ask(request, stop, room).await?);
    answer.send(asked.common.is_streamed()).await
}

/// `POST /v1/chat/completions/input_tokens`
pub(super) async fn input_tokens(
    State(app): State<Arc<App>>,
    Body { asked, .. }: Body<ChatRequest>,
) -> Result<Json<Value>, ApiError> {
    let Prepared { worker, request, .. } = asked.prepare(&app).await?;
    let size = worker.count(request).await?;
    Ok(Json(json!({
        "object": "response.input_tokens",
        "input_tokens": size.n_tokens(),
        "text_tokens": size.n_text,
        "image_tokens": size.images,
        "n_ctx": worker.n_ctx(),
    })))
}

/// `POST /apply-template`
pub(super) async fn apply_template(
    State(app): State<Arc<App>>,
    Body { asked, .. }: Body<ChatRequest>,
) -> Result<Json<Value>, ApiError> {
    let Prepared { worker, request, .. } = asked.prepare(&app).await?;
    let prompt = worker.prompt_text(request).await?;
    Ok(Json(json!({ "prompt": prompt })))
}

/// A model that is ready, and what it is to be asked.
struct Prepared {
    worker: Arc<Worker>,
    request: Request,
    stop: StopOnDrop,
}

impl ChatRequest {
    async fn prepare(&self, app: &Arc<App>) -> Result<Prepared, ApiError> {
        self.refuse_what_is_not_done()?;
        let Asked { entry, policy } = app.models.find(self.common.model.as_deref())?;
        let worker = app.ready(&entry).await?;
        let Conversation {
            mut prompt,
            image_urls,
        } = Conversation::of(&self.messages)?;
        worker.check_pictures(image_urls.len())?;
        worker.recall(&mut prompt);
        let mut request = Request::new(prompt);
        request.chat_template = entry.spec.chat_template.clone();
        request.policy = pruning::policy(&entry.spec, &worker, policy, self.common.visipruner.as_ref())?
            .map(crate::engine::AnyPolicy::Config);
        request.n_logprobs = self.n_logprobs()?;
        let defaults = Defaults::of(&app.options, &worker);
        self.answer.put_into(&mut request, &defaults)?;
        let stop = StopOnDrop(request.cancel.clone());
        request.images = app.pictures(image_urls, &request.cancel).await?;
        Ok(Prepared {
            worker,
            request,
            stop,
        })
    }

    fn n_logprobs(&self) -> Result<Option<usize>, ApiError> {
        match (self.logprobs, self.top_logprobs) {
            (_, Some(n)) if n > MAX_TOP_LOGPROBS => Err(ApiError::field(
                "top_logprobs",
                format!("{n} is more than {MAX_TOP_LOGPROBS}"),
            )),
            (Some(true), n) => Ok(Some(n.unwrap_or(0))),
            (_, Some(n)) if n > 0 => Err(ApiError::field("top_logprobs", "set logprobs, too")),
            _ => Ok(None),
        }
    }

    fn refuse_what_is_not_done(&self) -> Result<(), ApiError> {
        let is_given = |value: &Option<Value>| match value {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        if is_given(&self.tools) || is_given(&self.functions) {
            return Err(ApiError::field("tools", "tools are not supported"));
        }
        Ok(())
    }
}
