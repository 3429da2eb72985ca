//! The fields of a request that say how its answer is made: OpenAI's, and llama-server's where OpenAI has none.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use crate::engine::{Constraint, Request, Sampling};
use crate::server::options::ServerOptions;
use crate::server::worker::Worker;

/// Sampling and limits. What is missing or null is left at its default.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct AnswerFields {
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    n_predict: Option<i64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    repeat_penalty: Option<f32>,
    repeat_last_n: Option<i64>,
    logit_bias: Option<Biases>,
    n: Option<u64>,
    ignore_eos: Option<bool>,
    response_format: Option<Format>,
    json_schema: Option<Value>,
    grammar: Option<String>,
}

/// OpenAI's form of an answer; `json_object` may have a schema, as llama-server has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Format {
    Text,
    JsonObject { schema: Option<Value> },
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Debug, Clone, Deserialize)]
struct NamedSchema {
    schema: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

/// OpenAI's map from a token to its bias, or llama-server's pairs; a token's number, and false for one that never comes.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "expected an object from token numbers to biases, or a list of pairs"
)]
enum Biases {
    Map(BTreeMap<String, f32>),
    Pairs(Vec<(i64, Value)>),
}

/// What holds where a request does not say.
pub(super) struct Defaults<'a> {
    pub(super) sampling: &'a Sampling,
    /// Tokens that prompt and answer may have.
    pub(super) n_ctx: usize,
    pub(super) n_predict: Option<usize>,
}

impl<'a> Defaults<'a> {
    pub(super) fn of(options: &'a ServerOptions, worker: &Worker) -> Self {
        Self {
            sampling: &options.sampling,
            n_ctx: worker.n_ctx() as usize,
            n_predict: options.n_predict,
        }
    }
}

impl AnswerFields {
    /// Puts the fields into a request.
    ///
    /// # Errors
    /// 400 for values that cannot be used.
    pub(super) fn put_into(&self, request: &mut Request, defaults: &Defaults<'_>) -> Result<(), ApiError> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(ApiError::field(
                "n",
                "one answer is made per request: send it several times, with other seeds",
            ));
        }
        let limit = self.max_completion_tokens.or(self.max_tokens).or(self.n_predict);
        request.n_predict = match limit {
            Some(-1) => defaults.n_ctx,
            Some(limit) => usize::try_from(limit)
                .map_err(|_| ApiError::field("max_tokens", format!("{limit} is no number of tokens")))?,
            None => defaults.n_predict.unwrap_or(defaults.n_ctx),
        };
        request.sampling = self.sampling(defaults.sampling)?;
        request.stop = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Several(stops)) => stops.clone(),
        };
        request.ignore_eos = self.ignore_eos.unwrap_or(false);
        request.constraint = self.constraint()?;
        Ok(())
    }

    /// The form of the answer. Schemas are always kept to, `strict` or not.
    fn constraint(&self) -> Result<Option<Constraint>, ApiError> {
        let of_format = match &self.response_format {
            None | Some(Format::Text) => None,
            Some(Format::JsonObject { schema }) => {
                Some(schema.clone().unwrap_or_else(|| json!({"type": "object"})))
            }
            Some(Format::JsonSchema { json_schema }) => {
                Some(json_schema.schema.clone().unwrap_or_else(|| json!({})))
            }
        };
        let grammar = self.grammar.clone().filter(|grammar| !grammar.is_empty());
        match (of_format.or_else(|| self.json_schema.clone()), grammar) {
            (Some(_), Some(_)) => Err(ApiError::field(
                "grammar",
                "there is a schema, too: give one of them",
            )),
            (Some(schema), None) => Ok(Some(Constraint::JsonSchema(schema))),
            (None, grammar) => Ok(grammar.map(Constraint::Grammar)),
        }
    }

    fn sampling(&self, default: &Sampling) -> Result<Sampling, ApiError> {
        let or_all = |name: &str, value: Option<i64>, default: u32, all: u32| match value {
            None => Ok(default),
            Some(value) if value < 0 => Ok(all),
            Some(value) => {
                u32::try_from(value).map_err(|_| ApiError::field(name, format!("{value} is too large")))
            }
        };
        let sampling = Sampling {
            temp: self.temperature.unwrap_or(default.temp),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k: or_all("top_k", self.top_k, default.top_k, 0)?,
            min_p: self.min_p.unwrap_or(default.min_p),
            // any part of a number is a seed, too
            seed: self
                .seed
                .map_or(default.seed, |seed| (seed >= 0).then_some(seed as u32)),
            repeat_last_n: or_all(
                "repeat_last_n",
                self.repeat_last_n,
                default.repeat_last_n,
                1 << 20,
            )?,
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            logit_bias: self.logit_bias.as_ref().map_or_else(|| Ok(Vec::new()), biases)?,
        };
        sampling.validate()?;
        Ok(sampling)
    }
}

fn biases(given: &Biases) -> Result<Vec<(i32, f32)>, ApiError> {
    let wrong =
        |token: &str| ApiError::field("logit_bias", format!("{token} is no token's number with a bias"));
    match given {
        Biases::Map(map) => map
            .iter()
            .map(|(token, bias)| Ok((token.parse().map_err(|_| wrong(token))?, *bias)))
            .collect(),
        Biases::Pairs(pairs) => pairs
            .iter()
            .map(|(token, bias)| {
                let number = i32::try_from(*token).ok();
                let bias = match bias {
                    Value::Bool(false) => Some(f32::NEG_INFINITY),
                    bias => bias.as_f64().map(|bias| bias as f32),
                };
                number.zip(bias).ok_or_else(|| wrong(&token.to_string()))
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Prompt;

    fn request(fields: Value) -> Result<Request, ApiError> {
        let fields: AnswerFields = serde_json::from_value(fields).expect("is understood");
        let mut request = Request::new(Prompt::raw("text"));
        let defaults = Defaults {
            sampling: &Sampling::default(),
            n_ctx: 1000,
            n_predict: None,
        };
        fields.put_into(&mut request, &defaults)?;
        Ok(request)
    }

    #[test]
    fn what_is_not_said_is_the_servers() {
        let request = request(json!({"temperature": null, "unheard": 1})).expect("nothing is wrong");
        assert_eq!(request.sampling, Sampling::default());
        assert_eq!(request.n_predict, 1000);
    }

    #[test]
    fn limits_seeds_and_stops() {
        let of = |fields| request(fields).expect("nothing is wrong");
        assert_eq!(of(json!({"max_tokens": 5})).n_predict, 5);
        assert_eq!(
            of(json!({"max_tokens": 5, "max_completion_tokens": 6})).n_predict,
            6
        );
        assert_eq!(of(json!({"max_tokens": -1})).n_predict, 1000);
        assert_eq!(of(json!({"seed": 7})).sampling.seed, Some(7));
        assert_eq!(of(json!({"seed": -1})).sampling.seed, None);
        assert_eq!(of(json!({"stop": "a"})).stop, ["a"]);
        assert_eq!(of(json!({"stop": ["a", "b"]})).stop, ["a", "b"]);
        assert_eq!(of(json!({"top_k": -1})).sampling.top_k, 0);
        assert!(request(json!({"max_tokens": -2})).is_err());
        assert!(request(json!({"n": 2})).is_err());
        assert!(request(json!({"temperature": -1})).is_err());
    }

    #[test]
    fn biases_of_both_kinds() {
        let of = |bias| request(json!({ "logit_bias": bias })).map(|request| request.sampling.logit_bias);
        assert_eq!(
            of(json!({"5": 2.5, "7": -100})).expect("a map"),
            [(5, 2.5), (7, -100.0)]
        );
        assert_eq!(
            of(json!([[5, 1], [7, false]])).expect("pairs"),
            [(5, 1.0), (7, f32::NEG_INFINITY)]
        );
        assert!(of(json!({"five": 1})).is_err());
        assert!(of(json!([[5, "much"]])).is_err());
    }
}
