//! The search: candidates run for real until none is left that could be cheaper, or until the runs are used up.
//!
//! What is assumed is that a policy which computes no more vision rows than another one in any layer is no nearer to
//! dense: one failure then settles many candidates. The next one tried is always the one in the middle of those left,
//! by cost. A candidate is given up as soon as no result of its remaining prompts could save it, and the prompts that
//! were changed most so far come first. One that gets through is run on the prompts held out, too, and must meet the
//! target over all prompts together.

use serde::Serialize;

use super::candidates::Candidate;
use super::score::{Distance, Score, Target};
use super::split::Split;
use super::{Dense, Experiment, Runner, Step, Steps};
use crate::policy::config::VisiPrunerConfig;

/// One prompt under one policy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PromptRun {
    pub distance: Distance,
    /// Vision rows over all layers, and how many there would be without pruning.
    pub vision_rows: [usize; 2],
    pub fusion_layer: Option<usize>,
    pub n_kept: Option<usize>,
    pub exit_layer: Option<usize>,
}

/// A policy and the prompts that it was run on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trial {
    pub config: VisiPrunerConfig,
    pub runs: Vec<PromptRun>,
}

impl Trial {
    pub fn score(&self, target: &Target) -> Score {
        let distances: Vec<Distance> = self.runs.iter().map(|run| run.distance).collect();
        Score::of(&distances, target)
    }

    /// With the prompts of another trial of this policy.
    pub fn with(&self, other: &Self) -> Self {
        Self {
            config: self.config.clone(),
            runs: [self.runs.as_slice(), &other.runs].concat(),
        }
    }

    /// Vision rows over all layers, as a share of those without pruning.
    pub fn cost(&self) -> f64 {
        let sum = |i: usize| self.runs.iter().map(|run| run.vision_rows[i]).sum::<usize>();
        sum(0) as f64 / sum(1).max(1) as f64
    }
}

/// A candidate that was tried, for the record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// The policy.
    pub policy: VisiPrunerConfig,
    /// Vision rows over all layers that it was expected to compute, as a share of those without pruning.
    pub predicted_rows: f64,
    /// Those that it computed on the prompts that were run.
    pub rows: f64,
    /// What it came to on the prompts that were run. One that cannot meet the target any more is given up early.
    pub score: Score,
    /// Whether it met the target on all prompts, those held out included.
    pub met: bool,
}

/// What runs policies on prompts.
pub(super) struct Bench<'a, R> {
    pub runner: &'a mut R,
    pub dense: &'a [Dense],
    pub target: &'a Target,
    /// Runs done under a policy.
    pub n_runs: usize,
    /// Runs that the search may take.
    pub max_runs: usize,
    /// How far each prompt has been from dense, summed over what was tried.
    pub hardness: Vec<f64>,
}

/// Whether a trial may end before all its prompts have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// When the target cannot be met any more.
    Lost,
    /// When all have run.
    Done,
}

/// What a search came to.
#[derive(Debug, Default)]
pub(super) struct Searched {
    /// The cheapest that met the target, on the prompts to search with and on those held out.
    pub met: Option<[Trial; 2]>,
    /// What met it on the prompts to search with, but not on all together: the last one, with all its prompts.
    pub failed_check: Option<Trial>,
    /// How many were run on the prompts held out.
    pub n_checked: usize,
    pub tried: Vec<Tried>,
    /// Candidates that could have been cheaper and were not tried.
    pub n_left: usize,
}

impl<R: Runner> Bench<'_, R> {
    /// Tries candidates, which ascend in cost.
    pub fn search(&mut self, mut left: Vec<Candidate>, split: &Split) -> Result<Searched, R::Error> {
        let mut searched = Searched::default();
        let n_search = split.search.len();
        while !left.is_empty() && self.n_runs < self.max_runs {
            let candidate = left.remove(left.len() / 2);
            let trial = self.run(&candidate.config, &split.search, (Step::Search, Until::Lost))?;
            let score = trial.score(self.target);
            let mut met = score.n == n_search && self.target.is_met(&score);
            let is_lost = score.is_out_of_reach(self.target, n_search);
            let (rows, passed) = (trial.cost(), met);
            if passed {
                met = self.check(trial, &split.held_out, &mut searched)?;
            }
            searched.tried.push(Tried {
                policy: candidate.config.clone(),
                predicted_rows: candidate.cost(),
                rows,
                score,
                met,
            });
            if met {
                left.retain(|other| other.cost() < rows);
            } else if is_lost || passed {
                left.retain(|other| !other.keeps_no_more_than(&candidate));
            }
        }
        searched.n_left = left.len();
        Ok(searched)
    }

    /// Runs what met the target on the prompts held out, too. Whether it meets it over all of them.
    fn check(&mut self, trial: Trial, held_out: &[usize], searched: &mut Searched) -> Result<bool, R::Error> {
        searched.n_checked += 1;
        let held_out = self.run(&trial.config, held_out, (Step::Check, Until::Done))?;
        let all = trial.with(&held_out);
        let is_met = self.target.is_met(&all.score(self.target));
        if !is_met {
            searched.failed_check = Some(all);
        } else if searched
            .met
            .as_ref()
            .is_none_or(|[best, _]| trial.cost() < best.cost())
        {
            searched.met = Some([trial, held_out]);
        }
        Ok(is_met)
    }

    /// Runs a policy on prompts, the hardest first. With [`Until::Lost`] it also ends when the runs are used up.
    pub fn run(
        &mut self,
        config: &VisiPrunerConfig,
        prompts: &[usize],
        (step, until): (Step, Until),
    ) -> Result<Trial, R::Error> {
        let mut order = prompts.to_vec();
        order.sort_by(|&a, &b| self.hardness[b].total_cmp(&self.hardness[a]));
        let experiment = Experiment::Policy(config.clone());
        let mut trial = Trial {
            config: config.clone(),
            runs: Vec::with_capacity(prompts.len()),
        };
        for (n_done, i) in order.into_iter().enumerate() {
            if until == Until::Lost && self.n_runs >= self.max_runs {
                break;
            }
            self.runner.progress(match step {
                Step::Search => Steps {
                    step,
                    n_done: self.n_runs,
                    n_total: self.max_runs,
                },
                _ => Steps {
                    step,
                    n_done,
                    n_total: prompts.len(),
                },
            });
            trial.runs.push(self.run_one(i, &experiment)?);
            let is_lost = || {
                trial
                    .score(self.target)
                    .is_out_of_reach(self.target, prompts.len())
            };
            if until == Until::Lost && is_lost() {
                break;
            }
        }
        Ok(trial)
    }

    fn run_one(&mut self, i: usize, experiment: &Experiment) -> Result<PromptRun, R::Error> {
        let observed = self.runner.run(i, experiment)?;
        self.n_runs += 1;
        let dense = &self.dense[i].observed;
        let distance = Distance::between(dense, &observed);
        self.hardness[i] += distance.kl.min(1.0) + f64::from(u8::from(distance.changed));
        Ok(PromptRun {
            distance,
            vision_rows: [&observed, dense].map(|run| run.vision_rows.iter().sum()),
            fusion_layer: observed.fusion_layer,
            n_kept: observed.n_kept,
            exit_layer: observed.exit_layer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::candidates::candidates;
    use crate::calibrate::fake::{Fake, dense_runs};

    const TARGET: Target = Target {
        max_kl: Some(0.005),
        max_changed: None,
    };

    fn bench<'a>(fake: &'a mut Fake, dense: &'a [Dense], max_runs: usize) -> Bench<'a, Fake> {
        Bench {
            runner: fake,
            dense,
            target: &TARGET,
            n_runs: 0,
            max_runs,
            hardness: vec![0.0; dense.len()],
        }
    }

    /// Twelve prompts, none held out.
    fn all_searched() -> Split {
        Split {
            search: (0..12).collect(),
            held_out: Vec::new(),
        }
    }

    /// Against trying every candidate on every prompt.
    #[test]
    fn it_finds_the_cheapest_of_all_with_few_of_the_runs() {
        let mut fake = Fake::default();
        let dense = dense_runs(&fake, 12);
        let prompts: Vec<usize> = (0..12).collect();
        let all = candidates(1..=5, &dense.iter().collect::<Vec<_>>());
        let n_all = all.len();
        let mut exhaustive = bench(&mut fake, &dense, usize::MAX);
        let mut cheapest = f64::INFINITY;
        for candidate in &all {
            let trial = exhaustive
                .run(&candidate.config, &prompts, (Step::Check, Until::Done))
                .unwrap();
            if TARGET.is_met(&trial.score(&TARGET)) {
                cheapest = cheapest.min(trial.cost());
            }
        }
        let mut bench = bench(&mut fake, &dense, usize::MAX);
        let found = bench.search(all, &all_searched()).unwrap();
        let [best, _] = found.met.unwrap();
        assert!(
            (best.cost() - cheapest).abs() < 1e-12,
            "{} {cheapest}",
            best.cost()
        );
        assert!(
            bench.n_runs < n_all * 12 / 5,
            "{} of {}",
            bench.n_runs,
            n_all * 12
        );
        assert_eq!(found.n_left, 0);
    }

    #[test]
    fn it_stops_when_its_runs_are_used_up() {
        let mut fake = Fake::default();
        let dense = dense_runs(&fake, 12);
        let all = candidates(1..=5, &dense.iter().collect::<Vec<_>>());
        let mut bench = bench(&mut fake, &dense, 30);
        let found = bench.search(all, &all_searched()).unwrap();
        assert_eq!(bench.n_runs, 30);
        assert!(found.n_left > 0);
        // A trial that was cut short has not met anything.
        assert!(found.tried.iter().all(|tried| !tried.met || tried.score.n == 12));
    }

    #[test]
    fn what_is_lost_is_given_up() {
        let mut fake = Fake::default();
        let dense = dense_runs(&fake, 12);
        let blind = VisiPrunerConfig {
            mid_deep_layer: Some(1),
            ..candidates(1..=1, &dense.iter().collect::<Vec<_>>())[0]
                .config
                .clone()
        };
        let mut bench = bench(&mut fake, &dense, 100);
        let prompts: Vec<usize> = (0..12).collect();
        let trial = bench.run(&blind, &prompts, (Step::Search, Until::Lost)).unwrap();
        assert_eq!(trial.runs.len(), 1, "one prompt is enough to see it");
        let trial = bench.run(&blind, &prompts, (Step::Check, Until::Done)).unwrap();
        assert_eq!(trial.runs.len(), 12);
    }
}
