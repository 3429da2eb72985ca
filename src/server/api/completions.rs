//! `POST /v1/completions`: text that goes on as it is, without a template.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, Kind};
use super::body::{Body, FromJson, read};
use super::chat::MAX_TOP_LOGPROBS;
use super::common::Common;
use super::sampling::{AnswerFields, Defaults};
use super::{ApiError, pruning};
use crate::engine::{AnyPolicy, Prompt, Request};
use crate::server::App;
use crate::server::models::Asked;
use crate::server::worker::StopOnDrop;

#[derive(Debug, Deserialize)]
pub(super) struct CompletionRequest {
    prompt: Text,
    logprobs: Option<usize>,
    #[serde(skip)]
    common: Common,
    #[serde(skip)]
    answer: AnswerFields,
}

impl FromJson for CompletionRequest {
    fn from_json(value: &Value) -> Result<Self, ApiError> {
        Ok(Self {
            common: read(value)?,
            answer: read(value)?,
            ..read(value)?
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list with one")]
enum Text {
    One(String),
    Several(Vec<String>),
}

pub(super) async fn completions(
    State(app): State<Arc<App>>,
    Body { asked, room }: Body<CompletionRequest>,
) -> Result<Response, ApiError> {
    let text = match &asked.prompt {
        Text::One(text) => text,
        Text::Several(texts) => match &texts[..] {
            [text] => text,
            _ => return Err(ApiError::field("prompt", "one text is gone on with per request")),
        },
    };
    let Asked { entry, policy } = app.models.find(asked.common.model.as_deref())?;
    let worker = app.ready(&entry).await?;
    let mut request = Request::new(Prompt::raw(text));
    request.policy = pruning::policy(&entry.spec, &worker, policy, asked.common.visipruner.as_ref())?
        .map(AnyPolicy::Config);
    if let Some(n) = asked.logprobs.filter(|&n| n > MAX_TOP_LOGPROBS) {
        return Err(ApiError::field(
            "logprobs",
            format!("{n} is more than {MAX_TOP_LOGPROBS}"),
        ));
    }
    request.n_logprobs = asked.logprobs;
    let stop = StopOnDrop(request.cancel.clone());
    let defaults = Defaults::of(&app.options, &worker);
    asked.answer.put_into(&mut request, &defaults)?;
    let has_logprobs = request.n_logprobs.is_some();
    let wanted = asked.common.wanted(Kind::Completion, has_logprobs, &worker, &app);
    let answer = Answer::new(wanted, worker.ask(request, stop, room).await?);
    answer.send(asked.common.is_streamed()).await
}
