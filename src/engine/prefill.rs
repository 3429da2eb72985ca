//! The staged prefill: the whole prompt goes through a range of layers, the policy looks at what came out, and the
//! rows that it lets go on run through the next range.
//!
//! The loop knows the engine as three calls ([`LayerRanges`]) and the policy as a [`StagePolicy`]; what goes between
//! them is plain data, so everything here runs without a model.
//!
//! ```text
//! plan(il) ─> next_range ─> split_into_calls ─> run, run, … ─> probe ─> decide ─> rows of the next range
//! ```

mod calls;
#[cfg(test)]
mod tests;

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use thiserror::Error;

pub use calls::{CallAttention, RangeCall};

use crate::policy::trace::{LayerTrace, PrefillTrace, ProbeTrace};
use crate::policy::{Decision, LayerPlan, ProbeReading, PromptLayout, Row, StagePolicy, VisionIndex};
use calls::{AliveRows, split_into_calls};

/// What a staged prefill needs from an engine that holds a prompt.
pub trait LayerRanges {
    /// What can go wrong in the engine.
    type Error: std::error::Error;

    /// Runs some rows through some layers.
    ///
    /// # Errors
    /// Whatever keeps the engine from running them; the prefill ends there.
    fn run(&mut self, call: &RangeCall) -> Result<(), Self::Error>;

    /// Reads the statistic of layer `il`, which has just been run with [`RangeCall::probe_il`].
    ///
    /// # Errors
    /// Whatever keeps the engine from reading it.
    fn probe(&mut self, il: usize) -> Result<RowProbe, Self::Error>;

    /// Forgets the KV cells of some prompt rows in some layers. Layers that hold none of them are left as they are.
    ///
    /// # Errors
    /// Whatever keeps the engine from forgetting them.
    fn evict(&mut self, layers: Range<usize>, rows: Range<usize>) -> Result<(), Self::Error>;
}

/// The contributions `c_j` of all tokens to the attention output `o` of the last prompt token in one layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowProbe {
    /// `[n_rows]`, by prompt row: `||c_j||^2`, NaN where the layer holds no cell for the row.
    pub norm2: Vec<f32>,
    /// `[n_rows]`, by prompt row: `o . c_j`, NaN where the layer holds no cell for the row.
    pub dot: Vec<f32>,
    /// `||o||^2`
    pub output_norm2: f32,
}

/// What is run, and how.
#[derive(Debug, Clone, Copy)]
pub struct PrefillParams<'a> {
    /// The prompt.
    pub layout: &'a PromptLayout,
    /// Layers of the model.
    pub n_layer: usize,
    /// Rows that one call may have (llama.cpp's `n_batch`), at least 1.
    pub max_rows_per_call: usize,
    /// Whether the rows of an image see only what precedes them. If not (Gemma 3), each image is a call of its own.
    pub causal_images: bool,
}

/// How far a prefill has come, counted in rows times layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Done.
    pub n_done: usize,
    /// Done, and still to do if no more rows are dropped. It shrinks when rows are dropped.
    pub n_total: usize,
}

/// Why a prefill ended early.
#[derive(Debug, Error)]
pub enum PrefillError<E: std::error::Error + 'static> {
    /// The engine could not run, probe or evict a range.
    #[error("layers {} to {} of the prompt could not be run", .layers.start, .layers.end - 1)]
    Engine {
        /// The layers concerned.
        layers: Range<usize>,
        /// What it said.
        source: E,
    },
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The prompt is empty, or its image spans overlap, descend or leave it.
    #[error("the prompt of {n_rows} tokens with the image spans {vision:?} cannot be run")]
    Layout {
        /// Tokens in the prompt.
        n_rows: usize,
        /// Rows of each image.
        vision: Vec<Range<usize>>,
    },
    /// The rows of an image must see each other both ways, but do not fit into one call.
    #[error(
        "an image of {n_rows} tokens does not fit into a batch of {max}: raise the batch size to at least {n_rows}"
    )]
    ImageTooLong {
        /// Rows of the image.
        n_rows: usize,
        /// Rows that one call may have.
        max: usize,
    },
    /// The statistic of a vision token is not a finite number.
    #[error("layer {il}: the contribution of the vision token at prompt row {row} is not a finite number")]
    Probe {
        /// The probed layer.
        il: usize,
        /// The token's row.
        row: usize,
    },
    /// A policy kept tokens that were not there.
    #[error("layer {il}: the policy kept vision tokens that were not present")]
    Decision {
        /// The layer it decided after.
        il: usize,
    },
    /// A policy wanted a cut that it had not announced.
    #[error("the policy wants a cut before layer {il}, which is not one of its boundaries")]
    Boundary {
        /// The first layer after the cut.
        il: usize,
    },
}

/// Runs a prompt through all layers as a policy says. Afterwards the engine has the logits of the last prompt row.
///
/// `on_progress` is called before the first and after every call of the engine.
///
/// # Errors
/// One variant of [`PrefillError`] each; the prompt must then be started over.
pub fn prefill<E: LayerRanges>(
    engine: &mut E,
    params: &PrefillParams<'_>,
    policy: &mut dyn StagePolicy,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<PrefillTrace, PrefillError<E::Error>> {
    let layout = params.layout;
    if layout.n_rows == 0 || !layout.is_well_formed() {
        return Err(PrefillError::Layout {
            n_rows: layout.n_rows,
            vision: layout.vision.clone(),
        });
    }
    Prefill {
        engine,
        params,
        boundaries: policy.boundaries(params.n_layer),
        policy,
        on_progress,
        alive: AliveRows::all(layout),
        layers: Vec::with_capacity(params.n_layer),
        kept_after: Vec::new(),
        n_calls: 0,
        n_done: 0,
        policy_time: Duration::ZERO,
    }
    .run()
}

/// A prefill under way.
struct Prefill<'a, E> {
    engine: &'a mut E,
    params: &'a PrefillParams<'a>,
    boundaries: Vec<usize>,
    policy: &'a mut dyn StagePolicy,
    on_progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    alive: AliveRows,
    layers: Vec<LayerTrace>,
    /// What was present after each layer that decided.
    kept_after: Vec<(usize, Vec<VisionIndex>)>,
    n_calls: usize,
    n_done: usize,
    policy_time: Duration,
}

impl<E: LayerRanges> Prefill<'_, E> {
    fn run(mut self) -> Result<PrefillTrace, PrefillError<E::Error>> {
        self.report_progress()?;
        let mut il = 0;
        while il < self.params.n_layer {
            let range = self.next_range(il)?;
            il = range.end;
            self.run_range(range)?;
        }
        let evicted = self.evict()?;
        Ok(self.into_trace(evicted))
    }

    /// The layers from `begin` on that have the same attention and nothing to decide between them.
    fn next_range(&self, begin: usize) -> Result<Range<usize>, PrefillError<E::Error>> {
        let attention = self.policy.plan(begin).attention;
        let goes_on = |end: usize| {
            let last = self.policy.plan(end - 1);
            !last.probe && !last.decides && self.policy.plan(end).attention == attention
        };
        let mut end = begin + 1;
        while end < self.params.n_layer && goes_on(end) {
            end += 1;
        }
        if end < self.params.n_layer && !self.boundaries.contains(&end) {
            return Err(PrefillError::Boundary { il: end });
        }
        Ok(begin..end)
    }

    fn run_range(&mut self, layers: Range<usize>) -> Result<(), PrefillError<E::Error>> {
        let il_last = layers.end - 1;
        let last_plan = self.policy.plan(il_last);
        self.trace_layers(layers.clone());
        let probe_il = last_plan.probe.then_some(il_last);
        let calls = split_into_calls(self.params, &self.alive, &layers, last_plan.attention, probe_il)
            .map_err(|too_long| PrefillError::ImageTooLong {
                n_rows: too_long.n_rows,
                max: self.params.max_rows_per_call,
            })?;
        for call in calls {
            self.engine.run(&call).map_err(|source| PrefillError::Engine {
                layers: layers.clone(),
                source,
            })?;
            self.n_calls += 1;
            self.n_done += call.rows.len() * layers.len();
            self.report_progress()?;
        }
        let started = Instant::now();
        if last_plan.probe || last_plan.decides {
            self.decide(il_last, last_plan)?;
        }
        self.policy_time += started.elapsed();
        Ok(())
    }

    fn trace_layers(&mut self, layers: Range<usize>) {
        for il in layers {
            let plan = self.policy.plan(il);
            self.layers.push(LayerTrace {
                n_rows: self.alive.n_rows(),
                vision: self.alive.vision().to_vec(),
                stage: plan.stage,
                attention: plan.attention,
                probe: None,
            });
        }
    }

    fn decide(&mut self, il: usize, plan: LayerPlan) -> Result<(), PrefillError<E::Error>> {
        let reading = plan.probe.then(|| self.read_probe(il)).transpose()?;
        if let Some(reading) = &reading {
            self.layers[il].probe = Some(ProbeTrace {
                tokens: reading.tokens.clone(),
                cos: reading.cosines(),
                norm: reading.norms(),
                output_norm: reading.output_norm2.sqrt(),
            });
        }
        if plan.decides {
            if let Decision::Keep(kept) = self.policy.decide(il, reading.as_ref()) {
                self.alive
                    .keep(&kept)
                    .map_err(|_| PrefillError::Decision { il })?;
            }
            self.kept_after.push((il, self.alive.vision().to_vec()));
        }
        Ok(())
    }

    fn read_probe(&mut self, il: usize) -> Result<ProbeReading, PrefillError<E::Error>> {
        let by_row = self.engine.probe(il).map_err(|source| PrefillError::Engine {
            layers: il..il + 1,
            source,
        })?;
        let pick = |values: &[f32], row: Row| {
            let value = values
                .get(row.0 as usize)
                .copied()
                .filter(|value| value.is_finite());
            value.map(f64::from).ok_or(PrefillError::Probe {
                il,
                row: row.0 as usize,
            })
        };
        let rows = || self.alive.vision().iter().map(|&token| self.alive.row_of(token));
        if !by_row.output_norm2.is_finite() {
            return Err(PrefillError::Probe {
                il,
                row: self.params.layout.n_rows - 1,
            });
        }
        Ok(ProbeReading {
            tokens: self.alive.vision().to_vec(),
            norm2: rows()
                .map(|row| pick(&by_row.norm2, row))
                .collect::<Result<_, _>>()?,
            dot: rows()
                .map(|row| pick(&by_row.dot, row))
                .collect::<Result<_, _>>()?,
            output_norm2: f64::from(by_row.output_norm2),
        })
    }

    fn evict(&mut self) -> Result<Option<Range<usize>>, PrefillError<E::Error>> {
        let Some(layers) = self.policy.evict_after_prefill() else {
            return Ok(None);
        };
        for span in &self.params.layout.vision {
            self.engine
                .evict(layers.clone(), span.clone())
                .map_err(|source| PrefillError::Engine {
                    layers: layers.clone(),
                    source,
                })?;
        }
        Ok(Some(layers))
    }

    fn report_progress(&mut self) -> Result<(), PrefillError<E::Error>> {
        let n_total = self.layers.iter().map(|layer| layer.n_rows).sum::<usize>()
            + self.alive.n_rows() * (self.params.n_layer - self.layers.len());
        match (self.on_progress)(Progress {
            n_done: self.n_done,
            n_total,
        }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(PrefillError::Cancelled),
        }
    }

    fn into_trace(self, evicted: Option<Range<usize>>) -> PrefillTrace {
        let outcome = self.policy.outcome();
        let kept = outcome.fusion_layer.and_then(|fusion| {
            self.kept_after
                .into_iter()
                .find_map(|(il, kept)| (il == fusion).then_some(kept))
        });
        let kept_rows = kept
            .as_ref()
            .map(|kept| kept.iter().map(|&token| self.alive.row_of(token)).collect());
        PrefillTrace {
            layers: self.layers,
            fusion_layer: outcome.fusion_layer,
            kept,
            kept_rows,
            exit_layer: outcome.exit_layer,
            evicted,
            skipped: outcome.skipped,
            n_calls: self.n_calls,
            policy_time: self.policy_time,
        }
    }
}
