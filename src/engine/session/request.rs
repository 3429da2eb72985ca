//! What is asked of a session, and what comes back.

use super::logprob::TokenLogprob;
use super::policy::AnyPolicy;
use crate::engine::CancelHandle;
use crate::engine::{Constraint, Image, Prompt, Sampling};
use crate::report::RunReport;

/// What is asked of a session.
///
/// ```
/// use visipruner::engine::{Prompt, Request};
///
/// let request = Request { n_predict: 32, ..Request::new(Prompt::chat("What is a vision token?")) };
/// ```
#[derive(Debug, Clone)]
pub struct Request {
    /// The question.
    pub prompt: Prompt,
    /// The images of its places, in order.
    pub images: Vec<Image>,
    /// At most so many tokens are generated. Default: 512.
    pub n_predict: usize,
    /// How tokens are chosen. Default: the most likely one.
    pub sampling: Sampling,
    /// Texts that end the answer. Default: none.
    pub stop: Vec<String>,
    /// The form of the answer. Default: any.
    pub constraint: Option<Constraint>,
    /// Never choose a token that ends the answer, so that it has `n_predict` tokens. Default: no.
    pub ignore_eos: bool,
    /// A chat template in Jinja instead of the model's own. Default: none.
    pub chat_template: Option<String>,
    /// Which vision tokens go on. Its cuts must be among those of the cache. Default: the session's policy.
    pub policy: Option<AnyPolicy>,
    /// Stops the request from elsewhere. Default: nobody does.
    pub cancel: CancelHandle,
    /// Note how likely each token of the answer was, and so many of the most likely ones in its place. Default: nothing.
    pub n_logprobs: Option<usize>,
    /// Put the logits `[n_vocab]` of the last prompt token into the report. Default: no.
    pub report_logits: bool,
    /// Put what the probes read into the report. Default: no.
    pub report_probes: bool,
}

impl Request {
    /// A request with the defaults and no images.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            images: Vec::new(),
            n_predict: 512,
            sampling: Sampling::default(),
            stop: Vec::new(),
            constraint: None,
            ignore_eos: false,
            chat_template: None,
            policy: None,
            cancel: CancelHandle::default(),
            n_logprobs: None,
            report_logits: false,
            report_probes: false,
        }
    }
}

/// What happens while a session answers.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something the user should know. It is in the report, too.
    Warning(&'a str),
    /// So many of the encoder's layers are done, over all images (or tiles of images) of the prompt. Comes with `done`
    /// 0 first.
    Encode {
        /// Layers done.
        done: usize,
        /// Layers that all images go through.
        total: usize,
    },
    /// So many rows of the prompt are there already. Comes before the first `Prefill`, if there are any.
    Reused(usize),
    /// This part of the prompt has been computed, from 0 to 1.
    Prefill(f32),
    /// The next piece of the answer: one or more whole characters.
    Text(&'a str),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model said so.
    EndOfGeneration,
    /// One of the request's stop texts came.
    StopText,
    /// `n_predict` tokens were generated.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller stopped it.
    Cancelled,
}

/// An answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The text.
    pub text: String,
    /// The generated tokens, without the one that ended the answer.
    pub tokens: Vec<i32>,
    /// How likely each of them was, if the request asked for it.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub stop: StopReason,
    /// What went in, what each layer did, what was saved, where the time went. If the request was stopped before its
    /// prompt had been computed, only the names, the policy and the times are filled in.
    pub report: RunReport,
}
