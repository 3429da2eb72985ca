//! What a calibration came to.

use serde::Serialize;

use super::profile::Profile;
use super::readings::LayerReadings;
use super::score::{Score, Target};
use super::search::{PromptRun, Trial, Tried};
use crate::policy::config::VisiPrunerConfig;

/// Everything that was measured, and the policy that came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// What was allowed.
    pub target: Target,
    /// Layers of the model.
    pub n_layer: usize,
    /// Vision tokens of a prompt, at most.
    pub n_vision: usize,
    /// Prompts.
    pub n_prompts: usize,
    /// Of these, held out from the search.
    pub n_held_out: usize,
    /// Prompts run, all steps together.
    pub n_runs: usize,
    /// Policies that were worth trying.
    pub n_candidates: usize,
    /// Those that could have been cheaper than what was found, but the runs were used up.
    pub n_untried: usize,
    /// Those that met the target on the prompts to search with, and were run on those held out, too.
    pub n_checked: usize,
    /// The effect of hiding vision, by layer.
    pub profile: Profile,
    /// What the dense runs read in each layer.
    pub readings: Vec<LayerReadings>,
    /// What was tried, in that order.
    pub tried: Vec<Tried>,
    /// The policy; `None` if none met the target.
    pub found: Option<Found>,
    /// If none met the target: what came closest. `None` if the model has too few layers for any.
    pub closest: Option<Closest>,
}

/// The policy that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// The policy.
    pub policy: VisiPrunerConfig,
    /// On all prompts.
    pub score: Score,
    /// On those that were searched with.
    pub searched: Score,
    /// On those held out; it has no prompts if there were too few to hold any out.
    pub held_out: Score,
    /// Vision rows over all layers, as a share of those without pruning.
    pub rows: f64,
    /// What it decided.
    pub decisions: Decisions,
}

/// What a policy decided, over prompts.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Decisions {
    /// Prompts that fused.
    pub n_fused: usize,
    /// The earliest fusion layer and the latest.
    pub fusion_layers: Option<[usize; 2]>,
    /// Vision tokens that went on, on average over the prompts that fused.
    pub mean_kept: f64,
    /// Vision tokens that went on, at most.
    pub max_kept: usize,
    /// Prompts from which vision was dropped altogether before the last layer had run.
    pub n_exited: usize,
}

/// What came closest to a target that was not met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Closest {
    /// The policy.
    pub policy: VisiPrunerConfig,
    /// What it came to, on the prompts it was run on.
    pub score: Score,
    /// Vision rows over all layers, as a share of those without pruning.
    pub rows: f64,
}

impl Closest {
    pub(super) fn new(trial: &Trial, target: &Target) -> Self {
        Self {
            policy: trial.config.clone(),
            score: trial.score(target),
            rows: trial.cost(),
        }
    }
}

impl Decisions {
    fn of(runs: &[PromptRun]) -> Self {
        let fusion_layers = || runs.iter().filter_map(|run| run.fusion_layer);
        let kept = || runs.iter().filter_map(|run| run.fusion_layer.and(run.n_kept));
        let n_fused = fusion_layers().count();
        let ends = fusion_layers().min().zip(fusion_layers().max());
        Self {
            n_fused,
            fusion_layers: ends.map(|(first, last)| [first, last]),
            mean_kept: kept().sum::<usize>() as f64 / n_fused.max(1) as f64,
            max_kept: kept().max().unwrap_or(0),
            n_exited: runs.iter().filter(|run| run.exit_layer.is_some()).count(),
        }
    }
}

impl Found {
    /// From its trials on the prompts to search with and on those held out.
    pub(super) fn new(parts: &[Trial; 2], target: &Target) -> Self {
        let [searched, held_out] = parts;
        let all = searched.with(held_out);
        Self {
            policy: all.config.clone(),
            score: all.score(target),
            searched: searched.score(target),
            held_out: held_out.score(target),
            rows: all.cost(),
            decisions: Decisions::of(&all.runs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::Distance;

    /// A prompt that fused in this layer and kept so many.
    fn run(fusion_layer: Option<usize>, n_kept: usize) -> PromptRun {
        PromptRun {
            distance: Distance {
                kl: 0.0,
                first_changed: false,
                changed: false,
            },
            vision_rows: [40, 80],
            fusion_layer,
            n_kept: fusion_layer.map(|_| n_kept),
            exit_layer: (n_kept == 0).then_some(5),
        }
    }

    #[test]
    fn decisions_are_counted_over_prompts() {
        let decisions = Decisions::of(&[run(Some(3), 7), run(Some(5), 2), run(None, 0), run(Some(4), 0)]);
        let expected = Decisions {
            n_fused: 3,
            fusion_layers: Some([3, 5]),
            mean_kept: 3.0,
            max_kept: 7,
            n_exited: 2,
        };
        assert_eq!(decisions, expected);
    }
}
