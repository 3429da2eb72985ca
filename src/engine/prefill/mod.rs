//! The staged prefill: the whole prompt goes through a range of layers, the policy looks at what came out, and the
//! rows that it lets go on run through the next range.
//!
//! Rows up to the last picture are *shared*: what they are in a layer does not depend on the question, up to the layer
//! after which rows are dropped for it. What an earlier question has computed of them is there and only looked at; what is
//! computed now is there for the next one. From the first drop on, what goes on of them is the question's own.
//!
//! The loop knows the engine as a few calls ([`LayerRanges`]) and the policy as a [`StagePolicy`]; what goes between
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

use crate::policy::trace::{Drop, LayerTrace, PrefillTrace, ProbeTrace, Replay};
use crate::policy::{
    Decision, Embeddings, LayerPlan, PromptLayout, Reading, Row, StagePolicy, Statistic, VisionAttention,
    VisionIndex,
};
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

    /// Reads the contributions in layer `il` of the range that has just been run with a probe for
    /// [`Statistic::Contribution`].
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

    /// Goes back to layer `il` within the last range, whose calls said that it may be: its rows are due there again, and what it
    /// has computed from there on is forgotten.
    ///
    /// # Errors
    /// Whatever keeps the engine from it.
    fn rewind(&mut self, il: usize) -> Result<(), Self::Error>;

    /// From layer `il` on the shared rows `left` are no rows of this prompt, but `kept` go on as its own, beginning with
    /// what they take into that layer. Returns those of `kept` of which that is not known any more: the shared rows have
    /// gone further. They are run up to layer `il` once more.
    ///
    /// # Errors
    /// Whatever keeps the engine from it.
    fn branch(&mut self, il: usize, left: &[Row], kept: &[Row]) -> Result<Vec<Row>, Self::Error>;

    /// Forgets the KV cells of some prompt rows in some layers. Layers that hold none of them are left as they are.
    ///
    /// # Errors
    /// Whatever keeps the engine from forgetting them.
    fn evict(&mut self, layers: Range<usize>, rows: Range<usize>) -> Result<(), Self::Error>;

    /// Hears before each call how far the prefill has come, and may stop it. Nothing that is still to be read is in the
    /// engine then: it may do other work meanwhile.
    fn before_call(&mut self, progress: Progress) -> ControlFlow<()> {
        let _ = progress;
        ControlFlow::Continue(())
    }
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
    /// Layers that are run together at most where each is probed and may drop rows, at least 1. What was run in vain is run
    /// once more with fewer rows: the result is the same, with fewer round trips between engine and policy.
    pub probe_stride: usize,
    /// Whether the rows of an image see only what precedes them. If not (Gemma 3), each image is a call of its own.
    pub causal_images: bool,
    /// What enters layer 0, for policies that look at it ([`StagePolicy::needs_embeddings`]).
    pub embeddings: Option<Embeddings<'a>>,
    /// What the prompt has in common with others. Default: nothing.
    pub shared: Shared<'a>,
}

/// The rows that a prompt has in common with others, which may have run already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shared<'a> {
    /// Rows below it are shared: those up to the last picture, or what earlier turns have left.
    pub n_rows: usize,
    /// Rows below it belong to earlier turns: their text stays as it was computed.
    pub n_earlier: usize,
    /// For rows that are there: the layer that each is due at, the number of layers if it has run through all. Those that
    /// are not listed are new.
    pub due: &'a [usize],
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
/// # Errors
/// One variant of [`PrefillError`] each; the prompt must then be started over.
pub fn prefill<E: LayerRanges>(
    engine: &mut E,
    params: &PrefillParams<'_>,
    policy: &mut dyn StagePolicy,
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
        alive: AliveRows::all(layout, params.shared.due),
        entered: Vec::new(),
        has_branched: false,
        replayed: None,
        layers: Vec::with_capacity(params.n_layer),
        drops: Vec::new(),
        n_calls: 0,
        n_done: 0,
        n_in_vain: 0,
        policy_time: Duration::ZERO,
    }
    .run()
}

/// A prefill under way.
struct Prefill<'a, E> {
    engine: &'a mut E,
    params: &'a PrefillParams<'a>,
    policy: &'a mut dyn StagePolicy,
    alive: AliveRows,
    /// The vision tokens that entered layer 0.
    entered: Vec<VisionIndex>,
    /// Whether the rows that were shared are the prompt's own by now.
    has_branched: bool,
    replayed: Option<Replay>,
    layers: Vec<LayerTrace>,
    drops: Vec<Drop>,
    n_calls: usize,
    n_done: usize,
    /// Rows times layers that were run and forgotten.
    n_in_vain: usize,
    policy_time: Duration,
}

impl<E: LayerRanges> Prefill<'_, E> {
    fn run(mut self) -> Result<PrefillTrace, PrefillError<E::Error>> {
        self.start()?;
        let mut il = 0;
        while il < self.params.n_layer {
            let range = self.next_range(il)?;
            il = self.run_range(range)?;
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
        let (there, new) = self.alive.there_and_new(self.params.shared.due);
        let decision = if new.is_empty() {
            Decision::KeepAll
        } else {
            self.policy.start(&new, &embeddings)
        };
        let entering = match decision {
            Decision::KeepAll => new,
            Decision::Keep(kept) if kept.iter().all(|token| new.contains(token)) => kept,
            Decision::Keep(_) => return Err(PrefillError::Start),
        };
        self.policy_time += started.elapsed();
        self.keep(None, Decision::Keep([there, entering].concat()))
            .map_err(|_| PrefillError::Start)?;
        self.entered = self.alive.vision().to_vec();
        let started = Instant::now();
        self.policy.begin(&self.entered, &embeddings);
        self.policy_time += started.elapsed();
        Ok(())
    }

    /// The layers from `begin` on that have the same attention and nothing to decide between them, up to where rows that
    /// are there wait for the others.
    fn next_range(&self, begin: usize) -> Result<Range<usize>, PrefillError<E::Error>> {
        let attention = self.policy.plan(begin).attention;
        let goes_on = |end: usize| {
            let last = self.policy.plan(end - 1);
            last.probe.is_none() && !last.decides && self.policy.plan(end).attention == attention
        };
        let mut end = begin + 1;
        while end < self.params.n_layer && goes_on(end) && !self.alive.is_due(end) {
            end += 1;
        }
        if end < self.params.n_layer && !self.params.cuts.contains(&end) {
            return Err(PrefillError::NoCut { il: end });
        }
        Ok(begin..self.look_ahead(begin..end))
    }

    /// Where a range ends that goes on through further layers before anything is decided: those with the same plan.
    fn look_ahead(&self, layers: Range<usize>) -> usize {
        let plan = self.policy.plan(layers.start);
        let is_probed = plan.decides && plan.probe == Some(Statistic::Contribution);
        let mut end = layers.end;
        while is_probed
            && end < self.params.n_layer
            && end - layers.start < self.params.probe_stride
            && self.policy.plan(end) == plan
            && !self.alive.is_due(end)
            && (end + 1 == self.params.n_layer || self.params.cuts.contains(&(end + 1)))
        {
            end += 1;
        }
        end
    }

    /// Runs a range and decides; returns the layer at which it goes on: the end of the range, or earlier if what was run ahead
    /// was in vain.
    fn run_range(&mut self, layers: Range<usize>) -> Result<usize, PrefillError<E::Error>> {
        let plans: Vec<LayerPlan> = layers.clone().map(|il| self.policy.plan(il)).collect();
        let last_plan = plans[plans.len() - 1];
        self.trace_layers(layers.clone());
        let is_ahead = layers.len() > 1 && plans[0].decides;
        let decided = if is_ahead {
            layers.clone()
        } else {
            layers.end - 1..layers.end
        };
        let probe = last_plan
            .probe
            .map(|statistic| self.call_probe(decided.clone(), statistic))
            .transpose()?;
        let (rows, present) = (self.alive.rows_due(layers.start), self.alive.vision().to_vec());
        self.run_rows(&rows, &present, &layers, last_plan.attention, probe.as_ref())?;
        for il in decided {
            let plan = plans[il - layers.start];
            if plan.probe.is_none() && !plan.decides {
                continue;
            }
            let has_dropped = self.decide(il, plan)?;
            let next = il + 1;
            let is_in_vain =
                next < layers.end && (has_dropped || self.policy.plan(next) != plans[next - layers.start]);
            if is_in_vain {
                self.rewind(&rows, next..layers.end)?;
            }
            if has_dropped && self.params.shared.n_rows > 0 && !self.has_branched {
                self.has_branched = true;
                self.branch(next)?;
            }
            if is_in_vain {
                return Ok(next);
            }
        }
        Ok(layers.end)
    }

    /// Forgets what was run ahead.
    fn rewind(&mut self, rows: &[Row], layers: Range<usize>) -> Result<(), PrefillError<E::Error>> {
        self.engine
            .rewind(layers.start)
            .map_err(|source| PrefillError::Engine {
                layers: layers.clone(),
                source,
            })?;
        self.alive.advance(rows, layers.start);
        self.layers.truncate(layers.start);
        let n = rows.len() * layers.len();
        self.n_done -= n;
        self.n_in_vain += n;
        Ok(())
    }

    /// Runs rows through a range of layers, in which the vision tokens `present` are there.
    fn run_rows(
        &mut self,
        rows: &[Row],
        present: &[VisionIndex],
        layers: &Range<usize>,
        attention: VisionAttention,
        probe: Option<&CallProbe>,
    ) -> Result<(), PrefillError<E::Error>> {
        let calls = split_into_calls(
            self.params,
            &self.alive.kinds(rows, present),
            present,
            layers,
            attention,
            probe,
        )
        .map_err(|too_long| PrefillError::ImageTooLong {
            n_rows: too_long.n_rows,
            max: self.params.max_rows_per_call,
        })?;
        for call in calls {
            self.report_progress()?;
            self.engine.run(&call).map_err(|source| PrefillError::Engine {
                layers: layers.clone(),
                source,
            })?;
            self.n_calls += 1;
            // Rows that are run once more are further than that.
            if self.alive.are_due(&call.rows, layers.start) {
                self.alive.advance(&call.rows, layers.end);
                self.n_done += call.rows.len() * layers.len();
            }
        }
        Ok(())
    }

    /// Before layer `il`, the first with fewer rows: what was shared so far and goes on is the prompt's own.
    fn branch(&mut self, il: usize) -> Result<(), PrefillError<E::Error>> {
        let failed = |source| PrefillError::Engine {
            layers: il..il + 1,
            source,
        };
        let left = self.alive.open_rows(&self.params.shared);
        let kept: Vec<Row> = left
            .iter()
            .copied()
            .filter(|&row| self.alive.is_present(row))
            .collect();
        let again = self.engine.branch(il, &left, &kept).map_err(failed)?;
        let entered = self.entered.clone();
        let mut begin = 0;
        while begin < il && !again.is_empty() {
            let attention = self.layers[begin].attention;
            let same = self.layers[begin..il]
                .iter()
                .take_while(|layer| layer.attention == attention);
            let layers = begin..begin + same.count();
            self.run_rows(&again, &entered, &layers, attention, None)?;
            begin = layers.end;
        }
        self.replayed = (!again.is_empty()).then_some(Replay {
            n_rows: again.len(),
            n_layers: il,
        });
        self.alive.advance(&kept, il);
        Ok(())
    }

    /// The probe of a range, with the queries of all its calls.
    fn call_probe(
        &self,
        layers: Range<usize>,
        statistic: Statistic,
    ) -> Result<CallProbe, PrefillError<E::Error>> {
        let queries = self.queries(statistic);
        let spans = &self.params.layout.vision;
        let is_text =
            |row: usize| row < self.params.layout.n_rows && !spans.iter().any(|span| span.contains(&row));
        let are_raters = !queries.is_empty()
            && queries.windows(2).all(|pair| pair[0] < pair[1])
            && queries.iter().all(|row| is_text(row.0 as usize));
        if statistic == Statistic::TextAttention && !are_raters {
            return Err(PrefillError::Raters { il: layers.start });
        }
        Ok(CallProbe {
            layers,
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
                resident: self.alive.resident(il),
                stage: plan.stage,
                attention: plan.attention,
                probe: None,
                weights: None,
            });
        }
    }

    /// Returns whether rows were dropped that later layers would have run.
    fn decide(&mut self, il: usize, plan: LayerPlan) -> Result<bool, PrefillError<E::Error>> {
        let started = Instant::now();
        let reading = plan.probe.map(|statistic| self.read(il, statistic)).transpose()?;
        match &reading {
            Some(Reading::Contribution(reading)) => self.layers[il].probe = Some(ProbeTrace::of(reading)),
            Some(Reading::Attention(reading)) => self.layers[il].weights = Some(reading.clone()),
            None => {}
        }
        let decision = if plan.decides {
            self.policy.decide(il, reading.as_ref())
        } else {
            Decision::KeepAll
        };
        let has_dropped = self
            .keep(Some(il), decision)
            .map_err(|_| PrefillError::Decision { il })?;
        self.policy_time += started.elapsed();
        Ok(has_dropped)
    }

    /// Drops what a decision does not keep, and notes it if a layer is left to run without it. Returns whether.
    fn keep(&mut self, after: Option<usize>, decision: Decision) -> Result<bool, NotPresent> {
        let Decision::Keep(kept) = decision else {
            return Ok(false);
        };
        let n_before = self.alive.vision().len();
        self.alive.keep(&kept)?;
        let next = after.map_or(0, |il| il + 1);
        let has_dropped = kept.len() < n_before && next < self.params.n_layer;
        if has_dropped {
            let kept_rows = self.alive.rows_of(&kept);
            self.drops.push(Drop {
                after,
                kept,
                kept_rows,
            });
        }
        Ok(has_dropped)
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
        let n_total = self.n_done + self.alive.n_to_run(self.params.n_layer);
        let n_done = self.n_done;
        match self.engine.before_call(Progress { n_done, n_total }) {
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
            replayed: self.replayed,
            n_calls: self.n_calls,
            n_in_vain: self.n_in_vain,
            policy_time: self.policy_time,
        }
    }
}
