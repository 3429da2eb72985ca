//! What a model does with pictures in every layer, measured in runs without pruning.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::cache::{Cache, OnProbe, failed};
use super::options::{Cuts, SessionOptions};
use super::prompt::EncodedPrompt;
use super::session::{Event, OnEvent, hear};
use super::{CancelHandle, Error, Model};
use crate::ffi::{self, Status};
use crate::inspect::{InspectedLayer, Word};
use crate::policy::trace::PrefillTrace;
use crate::policy::{LayerPlan, Outcome, PolicyConfig, PromptLayout, Skipped, StagePolicy, Statistic};

/// Passes over the prompt that an inspection takes: one for each statistic.
const PASSES: [Statistic; 2] = [Statistic::Contribution, Statistic::LastAttention];

/// Measures what [`crate::inspect`] shows, for one prompt at a time.
///
/// The prompt runs without pruning, layer by layer, once for the contributions and the lenses and once for the
/// attention.
///
/// ```no_run
/// # use std::ops::ControlFlow;
/// # use visipruner::engine::{encode, Error, Inspector, Model, Projector, Request, SessionOptions};
/// # fn measure(model: &Model, projector: &mut Projector, request: &Request) -> Result<(), Error> {
/// let mut inspector = Inspector::new(model, SessionOptions::default())?;
/// let on_event = |_: visipruner::engine::Event<'_>| ControlFlow::Continue(());
/// if let Some(prompt) = encode(model, Some(projector), request, on_event)? {
///     let layers = inspector.layers(&prompt, 5, &request.cancel, on_event)?.unwrap_or_default();
///     for (il, layer) in layers.iter().enumerate() {
///         println!("layer {il}: the smallest cosine is {:?}", layer.min_cos());
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Inspector {
    cache: Cache,
}

impl Inspector {
    /// Sets up a session that can look into every layer. `options.policy` is not looked at.
    ///
    /// # Errors
    /// As [`Session::with_policy`](super::Session::with_policy); [`Error::OptionRange`] for a quantized cache of values, whose vectors are stored
    /// rotated.
    pub fn new(model: &Model, options: SessionOptions) -> Result<Self, Error> {
        if options.type_v.is_quantized() {
            return Err(Error::OptionRange {
                name: "type_v",
                value: options.type_v.to_string(),
                expected: "f16 or f32, because an inspection looks at the values".to_owned(),
            });
        }
        let options = SessionOptions {
            policy: PolicyConfig::Off,
            cuts: Cuts::EveryLayer,
            ..options
        };
        let cache = Cache::new(model, &options)?;
        Ok(Self { cache })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.cache.model()
    }

    /// Tokens that a prompt may have.
    pub fn n_ctx(&self) -> u32 {
        self.cache.n_ctx()
    }

    /// Measures every layer: one entry each, with the `n_words` likeliest words of both lenses. There is none if
    /// `on_event` or `cancel` stopped it.
    ///
    /// # Errors
    /// [`Error::ForeignPrompt`], [`Error::NothingToInspect`], [`Error::PromptTooLong`], [`Error::Compute`].
    pub fn layers(
        &mut self,
        prompt: &EncodedPrompt,
        n_words: usize,
        cancel: &CancelHandle,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Vec<InspectedLayer>>, Error> {
        self.cache.fit(prompt, 0)?;
        if let Some(reason) = prompt.layout.nothing_to_prune() {
            return Err(Error::NothingToInspect { reason });
        }
        let [contribution, attention] = PASSES;
        let mut lenses = Vec::new();
        let mut look = |context: &mut ffi::Context, sequence: &ffi::Sequence, il| {
            read_lenses(context, sequence, il, &mut lenses)
        };
        let Some((sequence, contributions)) =
            self.pass(contribution, prompt, cancel, &mut on_event, &mut look)?
        else {
            return Ok(None);
        };
        self.add_last_hidden(&mut lenses)?;
        let Some(values) = self.value_norms(&sequence, prompt, cancel)? else {
            return Ok(None);
        };
        drop(sequence);
        let mut nothing = |_: &mut ffi::Context, _: &ffi::Sequence, _| Ok(());
        let Some((_, weights)) = self.pass(attention, prompt, cancel, &mut on_event, &mut nothing)? else {
            return Ok(None);
        };
        let model = self.cache.model();
        let measured = contributions.layers.into_iter().zip(weights.layers);
        let layers = measured
            .zip(values)
            .zip(lenses)
            .map(|(((contribution, weight), values), lens)| {
                let probe = contribution.probe.as_ref();
                InspectedLayer {
                    attention: weight.weights.map_or_else(Vec::new, |reading| reading.weight),
                    norm: probe.map_or_else(Vec::new, |probe| probe.norm.clone()),
                    cos: probe.map_or_else(Vec::new, |probe| probe.cos.clone()),
                    output_norm: probe.map_or(0.0, |probe| probe.output_norm),
                    value_l1: values.vision,
                    text_value_l1: values.text,
                    top: likeliest(model, &lens.hidden, n_words),
                    value_top: likeliest(model, &lens.attention, n_words),
                }
            });
        Ok(Some(layers.collect()))
    }

    /// Runs the prompt and reads one statistic in every layer.
    fn pass(
        &mut self,
        statistic: Statistic,
        prompt: &EncodedPrompt,
        cancel: &CancelHandle,
        on_event: OnEvent<'_>,
        on_probe: OnProbe<'_>,
    ) -> Result<Option<(ffi::Sequence, PrefillTrace)>, Error> {
        let n_done = PASSES.iter().position(|&pass| pass == statistic).unwrap_or(0);
        let mut on_progress = |done: f32| {
            let done = (n_done as f32 + done) / PASSES.len() as f32;
            hear(cancel, on_event, Event::Prefill(done))
        };
        let mut policy = EveryLayer(statistic);
        self.cache
            .read_alone(prompt, &mut policy, cancel, &mut on_progress, on_probe)
    }

    /// After the last layer the hidden row goes through norm and head anyway.
    fn add_last_hidden(&mut self, lenses: &mut [Lenses]) -> Result<(), Error> {
        let logits = self.cache.context()?.logits(None).ok_or(Error::Compute {
            what: "the prompt",
            reason: "it left no logits".to_owned(),
        })?;
        if let Some(last) = lenses.last_mut() {
            last.hidden = logits.to_vec();
        }
        Ok(())
    }

    fn value_norms(
        &mut self,
        sequence: &ffi::Sequence,
        prompt: &EncodedPrompt,
        cancel: &CancelHandle,
    ) -> Result<Option<Vec<ValueNorms>>, Error> {
        let n_layer = self.cache.model().n_layer();
        let n_rows = prompt.layout.n_rows;
        let norms = self.cache.context()?.watching(cancel.flag(), |context| {
            let of_layer = |il| {
                let l1 = context.value_norms(sequence, il, n_rows);
                l1.map(|l1| ValueNorms::of(&l1, &prompt.layout))
            };
            (0..n_layer).map(of_layer).collect()
        });
        match norms {
            Ok(norms) => Ok(Some(norms)),
            Err(error) if error.status == Status::Aborted => Ok(None),
            Err(error) => Err(failed("the sizes of the values")(error)),
        }
    }
}

/// The logits that the last prompt row would have after a layer: `[n_vocab]` each.
struct Lenses {
    /// Of its hidden row.
    hidden: Vec<f32>,
    /// Of its attention output alone.
    attention: Vec<f32>,
}

/// Reads both lenses of a layer that has just been probed. There is no hidden row after the last one.
fn read_lenses(
    context: &mut ffi::Context,
    sequence: &ffi::Sequence,
    il: usize,
    lenses: &mut Vec<Lenses>,
) -> Result<(), ffi::Error> {
    let is_last = il + 1 == context.model().n_layer();
    lenses.push(Lenses {
        hidden: if is_last {
            Vec::new()
        } else {
            context.lens_hidden(sequence)?
        },
        attention: context.lens_attention(sequence, il)?,
    });
    Ok(())
}

/// The L1 norms of one layer's value vectors, mean over KV heads.
struct ValueNorms {
    /// `[n_vision]`
    vision: Vec<f64>,
    /// `[n_text]`
    text: Vec<f64>,
}

impl ValueNorms {
    /// From the norms by prompt row. A row that a layer with a sliding window has let go counts as nothing.
    fn of(l1: &[f32], layout: &PromptLayout) -> Self {
        let norm = |row: u32| f64::from(l1[row as usize]);
        let or_none = |norm: f64| if norm.is_nan() { 0.0 } else { norm };
        let of_rows = |rows: Vec<crate::policy::Row>| rows.iter().map(|row| or_none(norm(row.0))).collect();
        Self {
            vision: of_rows(layout.vision_rows()),
            text: of_rows(layout.text_rows()),
        }
    }
}

/// The `n` likeliest tokens, the likeliest first; among equals the one with the smaller number.
fn likeliest(model: &Model, logits: &[f32], n: usize) -> Vec<Word> {
    let word = |(token, probability): (usize, f64)| Word {
        text: model.detokenize(&[token as i32], true),
        probability,
    };
    largest_shares(logits, n).into_iter().map(word).collect()
}

/// The `n` largest probabilities of a softmax, with their indices.
fn largest_shares(logits: &[f32], n: usize) -> Vec<(usize, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - max).exp()).collect();
    let sum: f64 = shares.iter().sum();
    let descending =
        |&(_, a): &(usize, f64), &(_, b): &(usize, f64)| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
    let mut all: Vec<(usize, f64)> = shares.iter().map(|share| share / sum).enumerate().collect();
    all.sort_by(descending);
    all.truncate(n);
    all
}

/// Reads one statistic in every layer, and drops nothing.
#[derive(Debug, Clone, Copy)]
struct EveryLayer(Statistic);

impl StagePolicy for EveryLayer {
    fn plan(&self, _: usize) -> LayerPlan {
        LayerPlan {
            probe: Some(self.0),
            ..LayerPlan::default()
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            skipped: Some(Skipped::Off),
            ..Outcome::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_softmax_descend_and_ties_go_to_the_earlier() {
        let ln = f32::ln;
        let shares = largest_shares(&[ln(1.0), ln(4.0), ln(1.0), ln(2.0)], 3);
        let tokens: Vec<usize> = shares.iter().map(|share| share.0).collect();
        assert_eq!(tokens, [1, 3, 0]);
        for ((_, share), expected) in shares.iter().zip([0.5, 0.25, 0.125]) {
            assert!((share - expected).abs() < 1e-7, "{share} {expected}");
        }
    }

    #[test]
    fn value_norms_by_kind_of_row() {
        let layout = PromptLayout {
            n_rows: 5,
            vision: vec![1..3, 4..5],
        };
        let norms = ValueNorms::of(&[1.0, 2.0, f32::NAN, 4.0, 5.0], &layout);
        assert_eq!((norms.vision, norms.text), (vec![2.0, 0.0, 5.0], vec![1.0, 4.0]));
    }
}
