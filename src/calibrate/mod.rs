//! Finds a policy for a model without training: what the model does without its picture in which layers is measured, and
//! thresholds are taken from what its own layers read.
//!
//! ```text
//! prompts ─ dense runs ─┬─> profile: vision hidden below a layer, from a layer on ─> layers that fusion may fall on
//!                       └─> readings of every layer ─> candidates: thresholds in the model's own units
//!                                                                  │ cheapest that meets the target
//!                       policy file <─ check on held-out prompts <─┴─ search: candidates run for real
//! ```
//!
//! Nothing here runs a model: a [`Runner`] does. With [`Switch`] one session serves all of its experiments.
//! `docs/calibrate.md` says how numbers are chosen.
#![forbid(unsafe_code)]

mod candidates;
mod experiment;
mod kl;
mod picture;
mod policy_file;
mod profile;
mod readings;
mod result;
mod score;
mod search;
mod split;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use experiment::{Experiment, Switch};
pub use kl::kl_divergence;
pub use profile::{Profile, ProfilePoint};
pub use readings::LayerReadings;
pub use result::{Calibration, Closest, Decisions, Found};
pub use score::{Distance, Score, Target};
pub use search::Tried;

use std::ops::RangeInclusive;

use crate::policy::ProbeReading;
use candidates::{Candidate, candidates};
use search::{Bench, Searched, Until};
use split::Split;

/// Runs of the search for each prompt, unless something else is asked for.
const RUNS_PER_PROMPT: usize = 40;
/// Layers that a profile has room for, unless a stride is asked for.
const PROFILE_LAYERS: usize = 16;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What is allowed.
    pub target: Target,
    /// Prompts that the layer profile is measured on, at most.
    pub n_profile: usize,
    /// The profile is measured at every so many layers, and in between only where it matters. `None`: so that there
    /// are 16 at most.
    pub stride: Option<usize>,
    /// Runs of a prompt that the search may take. `None`: 40 for each prompt.
    pub max_runs: Option<usize>,
}

/// What came out of one run of one prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// Logits of the prompt's last row, `[n_vocab]`.
    pub logits: Vec<f32>,
    /// The tokens generated, without the one that ended the answer.
    pub answer: Vec<i32>,
    /// Vision rows computed, `[n_layer]`.
    pub vision_rows: Vec<usize>,
    /// The fusion layer, if there was one.
    pub fusion_layer: Option<usize>,
    /// Vision tokens that went on after it.
    pub n_kept: Option<usize>,
    /// The last layer with vision, if it was dropped altogether.
    pub exit_layer: Option<usize>,
    /// Of [`Experiment::Dense`]: the contributions, `[n_layer]`. Empty for others.
    pub readings: Vec<ProbeReading>,
}

/// What runs prompts.
pub trait Runner {
    /// Why a prompt could not be run; it ends the calibration.
    type Error;

    /// Runs prompt `i_prompt` with the most likely token taken each time.
    ///
    /// # Errors
    /// Whatever keeps it from being run.
    fn run(&mut self, i_prompt: usize, experiment: &Experiment) -> Result<Observation, Self::Error>;

    /// Hears how far things are. Called before each run.
    fn progress(&mut self, steps: Steps) {
        let _ = steps;
    }
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// All prompts without pruning.
    Dense,
    /// The layer profile.
    Profile,
    /// Candidates on the prompts to search with; the total is what it may take.
    Search,
    /// A policy on the prompts held out.
    Check,
}

/// How far a step is, in runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// The step.
    pub step: Step,
    /// Done.
    pub n_done: usize,
    /// To be done in this step, at most.
    pub n_total: usize,
}

/// Runs that a calibration takes, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Without pruning.
    pub n_dense: usize,
    /// For the layer profile.
    pub n_profile: usize,
    /// For the search.
    pub n_search: usize,
}

/// A prompt without pruning.
#[derive(Debug)]
struct Dense {
    observed: Observation,
}

impl Dense {
    fn n_layer(&self) -> usize {
        self.observed.readings.len()
    }
}

impl Settings {
    /// Runs that `n_prompts` prompts of a model of `n_layer` layers take, at most. The check takes a few more.
    pub fn planned(&self, n_layer: usize, n_prompts: usize) -> Planned {
        Planned {
            n_dense: n_prompts,
            n_profile: profile::n_runs(n_layer, self.stride(n_layer), self.n_profile.min(n_prompts)),
            n_search: self.max_runs(n_prompts),
        }
    }

    fn stride(&self, n_layer: usize) -> usize {
        self.stride.unwrap_or(n_layer.div_ceil(PROFILE_LAYERS)).max(1)
    }

    fn max_runs(&self, n_prompts: usize) -> usize {
        self.max_runs.unwrap_or(RUNS_PER_PROMPT * n_prompts)
    }
}

/// Calibrates on prompts. `pictures` has an entry for each: those of one picture have the same number, and are held out
/// together.
///
/// # Errors
/// The runner's.
pub fn calibrate<R: Runner>(
    runner: &mut R,
    pictures: &[usize],
    settings: &Settings,
) -> Result<Calibration, R::Error> {
    let target = &settings.target;
    let dense = run_dense(runner, pictures.len())?;
    let n_layer = dense.first().map_or(0, Dense::n_layer);
    let split = Split::new(pictures);
    let on_profile = split::evenly(&split.search, settings.n_profile);
    let profile = Profile::measure(runner, &dense, &on_profile, (target, settings.stride(n_layer)))?;

    let searched_with: Vec<&Dense> = split.search.iter().map(|&i| &dense[i]).collect();
    let all = open_layers(&profile).map_or(Vec::new(), |ks| candidates(ks, &searched_with));
    let most_careful = all.last().cloned();
    let n_candidates = all.len();
    let mut bench = Bench {
        runner,
        dense: &dense,
        target,
        n_runs: 0,
        max_runs: settings.max_runs(pictures.len()),
        hardness: vec![0.0; dense.len()],
    };
    let mut searched = bench.search(all, &split)?;
    let closest = closest(&mut bench, &mut searched, (most_careful, &split.search))?;
    let found = searched.met.map(|parts| Found::new(&parts, target));
    Ok(Calibration {
        target: *target,
        n_layer,
        n_vision: n_vision(&dense),
        n_prompts: pictures.len(),
        n_held_out: split.held_out.len(),
        n_runs: dense.len() + profile.n_points() * on_profile.len() + bench.n_runs,
        n_candidates,
        n_untried: searched.n_left,
        n_checked: searched.n_checked,
        tried: searched.tried,
        readings: readings::summary(&dense),
        profile,
        found,
        closest,
    })
}

fn run_dense<R: Runner>(runner: &mut R, n_prompts: usize) -> Result<Vec<Dense>, R::Error> {
    let mut dense = Vec::with_capacity(n_prompts);
    for i in 0..n_prompts {
        runner.progress(Steps {
            step: Step::Dense,
            n_done: i,
            n_total: n_prompts,
        });
        let observed = runner.run(i, &Experiment::Dense)?;
        dense.push(Dense { observed });
    }
    Ok(dense)
}

/// Vision tokens of the prompt that has most.
fn n_vision(dense: &[Dense]) -> usize {
    let n_vision = dense
        .iter()
        .filter_map(|dense| dense.observed.vision_rows.first())
        .max();
    n_vision.copied().unwrap_or(0)
}

/// The values of `shallow_mid_layer` worth trying. Fusion must leave a layer to run on less.
///
/// It need not fall before the first layer that is read, nor after the last one. One layer more is left open, as the
/// profile is measured on a few prompts only. What can be read both early and late is read early.
fn open_layers(profile: &Profile) -> Option<RangeInclusive<usize>> {
    let last = profile.n_layer.checked_sub(3)?;
    let high = profile.reads_until.saturating_sub(1).min(last);
    let low = profile
        .reads_from
        .saturating_sub(1)
        .min(profile.reads_until.saturating_sub(2))
        .min(high);
    Some(low..=high)
}

/// Where no policy met the target: the nearest miss, or the policy that drops least.
fn closest<R: Runner>(
    bench: &mut Bench<'_, R>,
    searched: &mut Searched,
    (most_careful, prompts): (Option<Candidate>, &[usize]),
) -> Result<Option<Closest>, R::Error> {
    if searched.met.is_some() {
        return Ok(None);
    }
    let trial = match (searched.failed_check.take(), most_careful) {
        (Some(trial), _) => trial,
        (None, Some(candidate)) => bench.run(&candidate.config, prompts, (Step::Check, Until::Done))?,
        (None, None) => return Ok(None),
    };
    Ok(Some(Closest::new(&trial, bench.target)))
}
