//! The staged prefill: the whole prompt goes through a range of layers, the policy looks at what came out, and the
//! rows that it lets go on run through the next range.
//!
//! The loop knows the engine as three calls ([`LayerRanges`]) and the policy as a [`StagePolicy`]; what goes between
//! them is plain data, so everything here runs without a model.
//!
//! ```text
//! start ─> plan(il) ─> next_range ─> split_into_calls ─> run, run, … ─> read ─> decide ─> rows of the next range
//! ```

mod calls;
mod error;
mod reading;
#[cfg(test)]
mod tests;

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

pub use calls::{CallAttention, CallProbe, RangeCall};
pub use error::PrefillError;

use crate::policy::trace::{Drop, LayerTrace, PrefillTrace, ProbeTrace};
use crate::policy::{Decision, Embeddings, LayerPlan, PromptLayout, Reading, StagePolicy, Statistic};
use calls::{AliveRows, NotPresent, split_into_calls};

/// What a staged prefill needs from an engine that holds a prompt.
pub trait LayerRanges {
    /// What can go wrong in the engine.
    type Error: std::error::Error;

    /// Runs some rows through some layers.
    ///
    /// # Errors
    /// Whatever keeps the engine from running them; the prefill ends there.
    fn run(&mut self, call: &RangeCall) -> Result<(), Self::Error>;

    /// Reads the contributions in layer `il`, which has just been run with a probe for [`Statistic::Contribution`].
    ///
    /// # Errors
    /// Whatever keeps the engine from reading them.
    fn probe(&mut self, il: usize) -> Result<RowProbe, Self::Error>;

    /// Reads the attention in layer `il`, which has just been run with probes for [`Statistic::LastAttention`] or
    /// [`Statistic::TextAttention`]: `[n_rows]`, by prompt row, the weight averaged over heads and summed over the
    /// [queries](CallProbe::queries) of all calls of the range. NaN where the layer holds no cell for the row, 0 where no
    /// query sees it.
    ///
    /// # Errors
    /// Whatever keeps the engine from reading it.
    fn attention(&mut self, il: usize) -> Result<Vec<f32>, Self::Error>;

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
    /// The layers before which the engine can be cut, ascending, without 0: those of the policy
    /// ([`Policy::cuts`](crate::policy::Policy::cuts)) or more.
    pub cuts: &'a [usize],
    /// Rows that one call may have (llama.cpp's `n_batch`), at least 1.
    pub max_rows_per_call: usize,
    /// Rows that a call may have whose attention is read (llama.cpp's `n_ubatch`), at least 1.
    pub max_rows_per_attention_probe: usize,
    /// Whether the rows of an image see only what precedes them. If not (Gemma 3), each image is a call of its own.
    pub causal_images: bool,
    /// What enters layer 0, for policies that look at it ([`StagePolicy::needs_embeddings`]).
    pub embeddings: Option<Embeddings<'a>>,
}

/// How far a prefill has come, counted in rows times layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Done.
    pub n_done: usize,
    /// Done, and still to do if no more rows are dropped. It shrinks when rows are dropped.
    pub n_total: usize,
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
        policy,
        on_progress,
        alive: AliveRows::all(layout),
        layers: Vec::with_capacity(params.n_layer),
        drops: Vec::new(),
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
    policy: &'a mut dyn StagePolicy,
    on_progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    alive: AliveRows,
    layers: Vec<LayerTrace>,
    drops: Vec<Drop>,
    n_calls: usize,
    n_done: usize,
    policy_time: Duration,
}

impl<E: LayerRanges> Prefill<'_, E> {
    fn run(mut self) -> Result<PrefillTrace, PrefillError<E::Error>> {
        self.start()?;
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

    /// Drops what does not enter layer 0.
    fn start(&mut self) -> Result<(), PrefillError<E::Error>> {
        let needs = self.policy.needs_embeddings();
        let embeddings = self.params.embeddings.unwrap_or_default();
        if !embeddings.satisfy(needs, self.params.layout) {
            return Err(PrefillError::Embeddings { needs });
        }
        let started = Instant::now();
        let decision = self.policy.start(self.alive.vision(), &embeddings);
        self.policy_time += started.elapsed();
        self.keep(None, decision).map_err(|_| PrefillError::Start)
    }

    /// The layers from `begin` on that have the same attention and nothing to decide between them.
    fn next_range(&self, begin: usize) -> Result<Range<usize>, PrefillError<E::Error>> {
        let attention = self.policy.plan(begin).attention;
        let goes_on = |end: usize| {
            let last = self.policy.plan(end - 1);
            last.probe.is_none() && !last.decides && self.policy.plan(end).attention == attention
        };
        let mut end = begin + 1;
        while end < self.params.n_layer && goes_on(end) {
            end += 1;
        }
        if end < self.params.n_layer && !self.params.cuts.contains(&end) {
            return Err(PrefillError::NoCut { il: end });
        }
        Ok(begin..end)
    }

    fn run_range(&mut self, layers: Range<usize>) -> Result<(), PrefillError<E::Error>> {
        let il_last = layers.end - 1;
        let last_plan = self.policy.plan(il_last);
        self.trace_layers(layers.clone());
        let probe = last_plan
            .probe
            .map(|statistic| self.call_probe(il_last, statistic))
            .transpose()?;
        let calls = split_into_calls(
            self.params,
            &self.alive,
            &layers,
            last_plan.attention,
            probe.as_ref(),
        )
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
        if last_plan.probe.is_some() || last_plan.decides {
            self.decide(il_last, last_plan)?;
        }
        self.policy_time += started.elapsed();
        Ok(())
    }

    /// The probe of a range, with the queries of all its calls.
    fn call_probe(&self, il: usize, statistic: Statistic) -> Result<CallProbe, PrefillError<E::Error>> {
        let queries = self.queries(statistic);
        let spans = &self.params.layout.vision;
        let is_text =
            |row: usize| row < self.params.layout.n_rows && !spans.iter().any(|span| span.contains(&row));
        let are_raters = !queries.is_empty()
            && queries.windows(2).all(|pair| pair[0] < pair[1])
            && queries.iter().all(|row| is_text(row.0 as usize));
        if statistic == Statistic::TextAttention && !are_raters {
            return Err(PrefillError::Raters { il });
        }
        Ok(CallProbe {
            il,
            statistic,
            queries,
        })
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
                weights: None,
            });
        }
    }

    fn decide(&mut self, il: usize, plan: LayerPlan) -> Result<(), PrefillError<E::Error>> {
        let reading = plan.probe.map(|statistic| self.read(il, statistic)).transpose()?;
        match &reading {
            Some(Reading::Contribution(reading)) => self.layers[il].probe = Some(ProbeTrace::of(reading)),
            Some(Reading::Attention(reading)) => self.layers[il].weights = Some(reading.clone()),
            None => {}
        }
        if plan.decides {
            let decision = self.policy.decide(il, reading.as_ref());
            self.keep(Some(il), decision)
                .map_err(|_| PrefillError::Decision { il })?;
        }
        Ok(())
    }

    /// Drops what a decision does not keep, and notes it if a layer is left to run without it.
    fn keep(&mut self, after: Option<usize>, decision: Decision) -> Result<(), NotPresent> {
        let Decision::Keep(kept) = decision else {
            return Ok(());
        };
        let n_before = self.alive.vision().len();
        self.alive.keep(&kept)?;
        let next = after.map_or(0, |il| il + 1);
        if kept.len() < n_before && next < self.params.n_layer {
            let kept_rows = self.alive.rows_of(&kept);
            self.drops.push(Drop {
                after,
                kept,
                kept_rows,
            });
        }
        Ok(())
    }

    fn evict(&mut self) -> Result<Option<Range<usize>>, PrefillError<E::Error>> {
        let asked = self.policy.evict_after_prefill().unwrap_or_default();
        let layers = asked.start..asked.end.min(self.params.n_layer);
        if layers.is_empty() {
            return Ok(None);
        }
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
        let fusion_layer = outcome.fusion_layer.filter(|&il| il < self.layers.len());
        let kept = fusion_layer.map(|il| match self.layers.get(il + 1) {
            Some(next) => next.vision.clone(),
            None => self.alive.vision().to_vec(),
        });
        let kept_rows = kept.as_deref().map(|kept| self.alive.rows_of(kept));
        let n_vision = self.params.layout.n_vision();
        let entered = self.layers.first().map(|layer| layer.vision.clone());
        PrefillTrace {
            layers: self.layers,
            entered: entered.filter(|entered| entered.len() < n_vision),
            drops: self.drops,
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
