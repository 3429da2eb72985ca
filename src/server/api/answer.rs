//! Answers as objects, whole or in chunks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{ApiError, pruning};
use crate::engine::{Model, Outcome, StopReason, TokenLogprob};
use crate::report::RunReport;
use crate::server::worker::{Ticket, Update};

/// What an object is called, and what it holds beside the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
}

/// What a request wants to hear.
pub(super) struct Wanted {
    pub(super) kind: Kind,
    pub(super) model: Model,
    /// What the request called the model.
    pub(super) model_name: String,
    /// The usage, in a chunk of its own at the end.
    pub(super) usage: bool,
    pub(super) logprobs: bool,
    pub(super) progress: bool,
    pub(super) pruning: bool,
    pub(super) ping: Duration,
}

/// An answer on its way to a client.
pub(super) struct Answer {
    wanted: Wanted,
    ticket: Ticket,
    id: String,
    created: u64,
    began: Instant,
}

impl Answer {
    pub(super) fn new(wanted: Wanted, ticket: Ticket) -> Self {
        let prefix = match wanted.kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        Self {
            wanted,
            ticket,
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            began: Instant::now(),
        }
    }

    /// The answer as the request wants it.
    pub(super) async fn send(self, is_streamed: bool) -> Result<Response, ApiError> {
        if is_streamed {
            self.streamed().await
        } else {
            Ok(Json(self.whole().await?).into_response())
        }
    }

    /// The whole answer as one object.
    async fn whole(mut self) -> Result<Value, ApiError> {
        let mut logprobs = Vec::new();
        let outcome = loop {
            match self.ticket.next().await {
                Some(Update::Text { logprobs: more, .. }) => logprobs.extend(more),
                Some(Update::Done(outcome)) => break outcome,
                Some(Update::Failed(error)) => return Err(error.into()),
                Some(Update::Reading { .. } | Update::Read(_)) => {}
                None => return Err(ApiError::engine("the engine has stopped")),
            }
        };
        let logprobs = self.wanted.logprobs.then(|| self.logprobs(&outcome.logprobs));
        let content = match self.wanted.kind {
            Kind::Chat => json!({"message": {"role": "assistant", "content": outcome.text, "refusal": null}}),
            Kind::Completion => json!({"text": outcome.text}),
        };
        let mut object = self.object(content, Some(finish_reason(outcome.stop)), logprobs, false);
        object["usage"] = usage(&outcome);
        object["timings"] = timings(&outcome.report, outcome.tokens.len());
        if self.wanted.pruning {
            object["visipruner"] = pruning::told(&outcome.report, &self.ticket.media);
        }
        Ok(object)
    }

    /// The answer in chunks, as they come. What is wrong with the prompt is an error before anything is sent.
    async fn streamed(mut self) -> Result<Response, ApiError> {
        let mut coming = VecDeque::new();
        match self.ticket.next().await {
            Some(Update::Failed(error)) => return Err(error.into()),
            None => return Err(ApiError::engine("the engine has stopped")),
            Some(first) => self.take(first, &mut coming),
        }
        let ping = self.wanted.ping;
        let state = (self, coming, false);
        let chunks =
            futures_util::stream::unfold(state, |(mut answer, mut coming, mut has_ended)| async move {
                loop {
                    if let Some(data) = coming.pop_front() {
                        let event = Ok::<Event, Infallible>(Event::default().data(data));
                        return Some((event, (answer, coming, has_ended)));
                    }
                    if has_ended {
                        return None;
                    }
                    match answer.ticket.next().await {
                        Some(update) => {
                            has_ended = matches!(update, Update::Done(_) | Update::Failed(_));
                            answer.take(update, &mut coming);
                        }
                        None => {
                            has_ended = true;
                            coming.push_back(ApiError::engine("the engine has stopped").body().to_string());
                        }
                    }
                }
            });
        let kept_alive = Sse::new(chunks).keep_alive(KeepAlive::new().interval(ping));
        Ok(kept_alive.into_response())
    }

    /// The chunks that an update becomes.
    fn take(&self, update: Update, coming: &mut VecDeque<String>) {
        let mut push = |object: Value| coming.push_back(object.to_string());
        match update {
            Update::Reading { n_cached, done } => {
                if self.wanted.progress {
                    let mut object = self.chunk(json!({}), None, None);
                    let n_prompt = self.ticket.n_prompt;
                    let n_new = n_prompt.saturating_sub(n_cached);
                    object["prompt_progress"] = json!({
                        "total": n_prompt,
                        "cache": n_cached,
                        "processed": n_cached + (f64::from(done) * n_new as f64).round() as usize,
                        "time_ms": self.began.elapsed().as_secs_f64() * 1e3,
                    });
                    push(object);
                }
            }
            Update::Read(report) => {
                if self.wanted.kind == Kind::Chat || self.wanted.pruning {
                    let mut object = self.chunk(json!({"role": "assistant", "content": ""}), None, None);
                    if self.wanted.pruning {
                        object["visipruner"] = pruning::told(&report, &self.ticket.media);
                    }
                    push(object);
                }
            }
            Update::Text { text, logprobs } => {
                let logprobs = self.wanted.logprobs.then(|| self.logprobs(&logprobs));
                push(self.chunk(json!({"content": text}), None, logprobs));
            }
            Update::Done(outcome) => {
                let mut last = self.chunk(json!({}), Some(finish_reason(outcome.stop)), None);
                last["timings"] = timings(&outcome.report, outcome.tokens.len());
                if self.wanted.pruning {
                    last["visipruner"] = pruning::told(&outcome.report, &self.ticket.media);
                }
                push(last);
                if self.wanted.usage {
                    let mut object = self.chunk(json!({}), None, None);
                    object["choices"] = json!([]);
                    object["usage"] = usage(&outcome);
                    object["timings"] = timings(&outcome.report, outcome.tokens.len());
                    push(object);
                }
                coming.push_back("[DONE]".to_owned());
            }
            Update::Failed(error) => push(ApiError::from(error).body()),
        }
    }

    fn chunk(&self, delta: Value, finish: Option<&str>, logprobs: Option<Value>) -> Value {
        let content = match self.wanted.kind {
            Kind::Chat => json!({"delta": delta}),
            Kind::Completion => {
                json!({"text": delta.get("content").and_then(Value::as_str).unwrap_or_default()})
            }
        };
        self.object(content, finish, logprobs, true)
    }

    fn object(
        &self,
        mut choice: Value,
        finish: Option<&str>,
        logprobs: Option<Value>,
        is_chunk: bool,
    ) -> Value {
        choice["index"] = json!(0);
        choice["finish_reason"] = json!(finish);
        choice["logprobs"] = json!(logprobs);
        let kind = match (self.wanted.kind, is_chunk) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Completion, _) => "text_completion",
        };
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.wanted.model_name,
            "system_fingerprint": concat!("visipruner-", env!("CARGO_PKG_VERSION")),
            "choices": [choice],
        })
    }

    fn logprobs(&self, tokens: &[TokenLogprob]) -> Value {
        let model = &self.wanted.model;
        let entry = |token: i32, logprob: f32| {
            let bytes = model.token_bytes(token);
            json!({"id": token, "token": String::from_utf8_lossy(&bytes), "bytes": bytes, "logprob": logprob})
        };
        let all = tokens.iter().map(|token| {
            let mut object = entry(token.token, token.logprob);
            object["top_logprobs"] = token
                .top
                .iter()
                .map(|&(token, logprob)| entry(token, logprob))
                .collect();
            object
        });
        json!({"content": all.collect::<Vec<_>>()})
    }
}

fn finish_reason(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Length | StopReason::ContextFull => "length",
        _ => "stop",
    }
}

fn usage(outcome: &Outcome) -> Value {
    let (prompt, answer) = (outcome.report.n_tokens, outcome.tokens.len());
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": outcome.report.reused_rows},
    })
}

/// As llama-server tells them.
fn timings(report: &RunReport, n_predicted: usize) -> Value {
    let times = report.times_ms;
    let n_prompt = report.n_tokens - report.reused_rows;
    let per_second = |n: usize, ms: f64| if ms > 0.0 { n as f64 * 1e3 / ms } else { 0.0 };
    json!({
        "cache_n": report.reused_rows,
        "prompt_n": n_prompt,
        "prompt_ms": times.prefill,
        "prompt_per_second": per_second(n_prompt, times.prefill),
        "image_ms": times.encode,
        "predicted_n": n_predicted,
        "predicted_ms": times.decode,
        "predicted_per_second": per_second(n_predicted, times.decode),
    })
}
