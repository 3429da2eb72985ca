//! Fields that all requests for an answer have.

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Kind, Wanted};
use crate::server::App;
use crate::server::worker::Worker;

/// Who is asked, and what is to be heard of it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Common {
    pub(super) model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    pub(super) visipruner: Option<Value>,
    return_progress: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl Common {
    pub(super) fn is_streamed(&self) -> bool {
        self.stream == Some(true)
    }

    pub(super) fn wanted(&self, kind: Kind, logprobs: bool, worker: &Worker, app: &App) -> Wanted {
        let usage = self.stream_options.as_ref();
        Wanted {
            kind,
            model: worker.model().clone(),
            model_name: self.model.clone().unwrap_or_else(|| app.first_model()),
            usage: usage.is_some_and(|options| options.include_usage == Some(true)),
            logprobs,
            progress: self.return_progress == Some(true),
            pruning: self.visipruner.is_some(),
            ping: app.options.ping,
        }
    }
}
