//! What policies share that rank the vision tokens by the attention they get, in some layers.
//!
//! A rank layer runs on all of its rows, and its attention ranks the vision tokens that are there: with
//! `s_j = mean_{i in R} mean_h a[h][i][j]` the tokens of the largest `s_j` go on to the next layer, as many as the
//! layer's budget says, among equals the earlier ones. Which rows `R` are asked is the policy's
//! ([`Statistic::LastAttention`], [`Statistic::TextAttention`]). Budgets count over all vision tokens that the prompt
//! has, of all images together, however many are left. Kept tokens keep their positions.

use serde::{Deserialize, Serialize};

use super::budget::{Budget, listed};
use super::config::{FamilyFields, PolicyOverrides};
use super::{
    Decision, LayerPlan, Outcome, PolicyError, Reading, Skipped, Stage, StagePolicy, Statistic, largest,
};

/// The fields of the policies `fastv`, `pyramiddrop` and `sparsevlm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankSchedule {
    /// The layers whose attention ranks the vision tokens, ascending, from 0 to the last layer. Fewer tokens run from
    /// the layer after each of them on.
    pub rank_layers: Vec<usize>,
    /// How many tokens go on after each of them: one budget per rank layer. 0 is an exit.
    pub keep: Vec<Budget>,
}

impl FamilyFields for RankSchedule {
    const FIELDS: &'static [&'static str] = &["rank_layers", "keep"];

    fn with(self, fields: &PolicyOverrides) -> Self {
        Self {
            rank_layers: fields.rank_layers.clone().unwrap_or(self.rank_layers),
            keep: fields.keep.clone().map_or(self.keep, |budgets| budgets.0),
        }
    }

    fn validate(&self) -> Result<(), PolicyError> {
        let is_ascending = self.rank_layers.windows(2).all(|pair| pair[0] < pair[1]);
        if self.rank_layers.is_empty() || !is_ascending {
            return Err(PolicyError::OutOfRange {
                field: "rank_layers",
                value: format!("[{}]", listed(&self.rank_layers)),
                range: String::from("at least one layer, ascending, each once"),
            });
        }
        if self.keep.len() != self.rank_layers.len() {
            return Err(PolicyError::OutOfRange {
                field: "keep",
                value: format!("[{}]", listed(&self.keep)),
                range: format!(
                    "one budget for each of the {} rank_layers",
                    self.rank_layers.len()
                ),
            });
        }
        self.keep.iter().try_for_each(|budget| budget.validate("keep"))
    }

    fn validate_layers(&self, n_layer: usize) -> Result<(), PolicyError> {
        match self.rank_layers.last() {
            Some(&il) if il >= n_layer => Err(PolicyError::NoSuchLayer {
                field: "rank_layers",
                value: listed(&self.rank_layers),
                min: 0,
                max: n_layer.saturating_sub(1),
                flag: "--rank-layers",
            }),
            _ => Ok(()),
        }
    }

    fn boundaries(&self, n_layer: usize) -> Vec<usize> {
        let after = self.rank_layers.iter().map(|il| il + 1);
        after.filter(|&il| il < n_layer).collect()
    }
}

/// A [`RankSchedule`] at work on one prompt.
#[derive(Debug, Clone)]
pub struct Ranking {
    schedule: RankSchedule,
    statistic: Statistic,
    n_layer: usize,
    n_vision: usize,
    /// The first layer after which fewer tokens went on.
    first_drop: Option<usize>,
    exit_layer: Option<usize>,
}

impl Ranking {
    /// For a prompt of `n_vision` vision tokens. The schedule must be valid for `n_layer` layers.
    pub fn new(schedule: RankSchedule, statistic: Statistic, n_layer: usize, n_vision: usize) -> Self {
        Self {
            schedule,
            statistic,
            n_layer,
            n_vision,
            first_drop: None,
            exit_layer: None,
        }
    }

    /// The budget of a layer, if it ranks.
    fn budget(&self, il: usize) -> Option<usize> {
        let i = self.schedule.rank_layers.binary_search(&il).ok()?;
        Some(self.schedule.keep[i].of(self.n_vision))
    }

    fn stage(&self, il: usize) -> Stage {
        if self.exit_layer.is_some() {
            Stage::Text
        } else if self.first_drop.is_some() {
            Stage::Deep
        } else if self.schedule.rank_layers.contains(&il) {
            Stage::Middle
        } else {
            Stage::Dense
        }
    }

    fn skipped(&self) -> Option<Skipped> {
        match self.first_drop {
            None => Some(Skipped::WithinBudget),
            Some(il) if il + 1 == self.n_layer => Some(Skipped::TooLate { il }),
            Some(_) => None,
        }
    }
}

impl StagePolicy for Ranking {
    fn plan(&self, il: usize) -> LayerPlan {
        let budget = self.budget(il).filter(|_| self.exit_layer.is_none());
        LayerPlan {
            stage: self.stage(il),
            // Nothing has to be ranked where nothing is kept.
            probe: budget.filter(|&budget| budget > 0).map(|_| self.statistic),
            decides: budget.is_some(),
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, il: usize, reading: Option<&Reading>) -> Decision {
        let Some(reading) = reading.and_then(Reading::attention) else {
            self.first_drop.get_or_insert(il);
            self.exit_layer = Some(il);
            return Decision::Keep(Vec::new());
        };
        let n_kept = self.budget(il).unwrap_or(usize::MAX);
        if n_kept >= reading.tokens.len() {
            return Decision::KeepAll;
        }
        self.first_drop.get_or_insert(il);
        Decision::Keep(largest(&reading.tokens, &reading.weight, n_kept))
    }

    fn boundaries(&self, n_layer: usize) -> Vec<usize> {
        self.schedule.boundaries(n_layer)
    }

    fn vision_bound(&self, il: usize) -> Option<usize> {
        let ranked = self.schedule.rank_layers.iter().zip(&self.schedule.keep);
        ranked
            .filter(|&(&rank_layer, _)| rank_layer < il)
            .map(|(_, budget)| budget.of(self.n_vision))
            .min()
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            fusion_layer: self.first_drop,
            exit_layer: self.exit_layer,
            skipped: self.skipped(),
        }
    }
}
