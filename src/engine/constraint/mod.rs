//! Answers of a given form: a JSON schema or a grammar says which tokens may come next.

mod gbnf;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::{Error, Model};

/// The form of an answer.
///
/// ```
/// use serde_json::json;
/// use visipruner::engine::{Constraint, Prompt, Request};
///
/// let schema = json!({"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]});
/// let request = Request {
///     constraint: Some(Constraint::JsonSchema(schema)),
///     ..Request::new(Prompt::chat("Which colour is it?"))
/// };
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Constraint {
    /// JSON that a schema allows; `{}` allows any.
    JsonSchema(Value),
    /// Text of a grammar: llama.cpp's GBNF, whose first rule is `root`, or Lark below a line `%llguidance {}`.
    Grammar(String),
}

impl Constraint {
    fn grammar(&self) -> Result<TopLevelGrammar, String> {
        match self {
            Self::JsonSchema(schema) => Ok(TopLevelGrammar::from_json_schema(in_one_line(schema.clone()))),
            Self::Grammar(text) if text.trim_start().starts_with("%llguidance") => {
                Ok(TopLevelGrammar::from_lark(text.clone()))
            }
            Self::Grammar(text) => Ok(TopLevelGrammar::from_lark(gbnf::to_lark(text)?)),
        }
    }
}

/// A schema that says, unless it does already, that JSON stands in one line: where blanks are free, a model that is not sure of
/// the next word writes blanks for ever.
fn in_one_line(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        let options = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        fields.entry("x-guidance").or_insert(options);
    }
    schema
}

/// What is needed of a vocabulary; made once for a model.
pub(crate) struct Vocabulary {
    /// Parsers share it and leave it as it is, whatever becomes of one of them.
    factory: AssertUnwindSafe<ParserFactory>,
    /// The tokens that end an answer.
    ends: Vec<i32>,
}

impl Vocabulary {
    pub(crate) fn of(model: &Model) -> Result<Self, Error> {
        let ends = model.end_of_generation_tokens();
        let Some(&end) = ends.first() else {
            return Err(refused("the model has no token that ends an answer"));
        };
        let words: Vec<Vec<u8>> = (0..model.n_vocab() as i32)
            .map(|token| word(model, token))
            .collect();
        let info = TokRxInfo::new(model.n_vocab() as u32, end as u32);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| refused(error.to_string()))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self {
            factory: AssertUnwindSafe(factory),
            ends,
        })
    }

    /// An answer that is still empty.
    ///
    /// # Errors
    /// [`Error::Constraint`] for a schema or grammar that cannot be used.
    pub(crate) fn begin(&self, constraint: &Constraint) -> Result<Constrained, Error> {
        let grammar = constraint.grammar().map_err(refused)?;
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(reason) => Err(refused(reason.lines().next().unwrap_or_default())),
            None => Ok(Constrained {
                matcher,
                ends: self.ends.clone(),
            }),
        }
    }
}

/// The bytes of a token; of one that is no text, its name behind a byte that no text has.
fn word(model: &Model, token: i32) -> Vec<u8> {
    let bytes = model.token_bytes(token);
    if !bytes.is_empty() {
        return bytes;
    }
    let name = model.detokenize(&[token], true);
    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Constraint {
        reason: reason.into(),
    }
}

/// An answer in the making, and what may come next.
pub(crate) struct Constrained {
    matcher: Matcher,
    ends: Vec<i32>,
}

impl Constrained {
    /// Leaves only logits `[n_vocab]` of tokens that may come next.
    ///
    /// # Errors
    /// [`Error::Constraint`] where finding them takes too long.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<(), Error> {
        let allowed = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|error| refused(error.to_string()))?;
        let may_end = self
            .ends
            .first()
            .is_some_and(|&end| allowed.is_allowed(end as u32));
        let ends: Vec<(usize, f32)> = self
            .ends
            .iter()
            .map(|&end| (end as usize, logits[end as usize]))
            .collect();
        for (token, logit) in logits.iter_mut().enumerate() {
            if !allowed.is_allowed(token as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        for (end, logit) in ends {
            logits[end] = if may_end { logit } else { f32::NEG_INFINITY };
        }
        Ok(())
    }

    /// Takes the token that was chosen. Returns whether nothing can follow.
    ///
    /// # Errors
    /// [`Error::Constraint`] for a token that was not allowed.
    pub(crate) fn take(&mut self, token: i32) -> Result<bool, Error> {
        self.matcher
            .consume_token(token as u32)
            .map_err(|error| refused(error.to_string()))?;
        Ok(self.matcher.is_stopped())
    }
}
