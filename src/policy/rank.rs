//! Policies that rank the vision tokens by the attention they get, in some layers.
//!
//! A rank layer runs on all of its rows, and its attention ranks the vision tokens that are there: with
//! `s_j = mean_{i in R} mean_h a[h][i][j]` the tokens of the largest `s_j` go on to the next layer, as many as the
//! layer's budget says, among equals the earlier ones. Budgets count over all vision tokens that the prompt has, of all
//! images together, however many are left. Kept tokens keep their positions.
//!
//! Such a policy is data, a [`RankMethod`]: which rows `R` are asked, and its paper's layers and budgets.

use super::budget::{Budget, listed};
use super::config::PolicyFields;
use super::config::fields::{Fields, policy_fields};
use super::{
    Decision, Embeddings, LayerPlan, Needs, Outcome, PolicyError, PolicyOverrides, PromptLayout, Reading,
    Row, Skipped, Stage, StagePolicy, Statistic, VisionIndex, largest,
};

/// What tells one ranking policy from another.
#[derive(Debug, Clone, Copy)]
pub struct RankMethod {
    /// Whose attention ranks.
    pub raters: Raters,
    /// Where, unless it is said otherwise.
    pub rank_layers: &'static [usize],
    /// How many tokens go on after each of them, unless it is said otherwise.
    pub keep: &'static [Budget],
}

/// The rows `R` whose attention ranks the vision tokens.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Raters {
    /// The last prompt row: [`Statistic::LastAttention`].
    LastRow,
    /// Text rows that are chosen by the embeddings of the prompt and of the vision tokens present, ascending:
    /// [`Statistic::TextAttention`].
    Chosen(fn(&PromptLayout, &[VisionIndex], &Embeddings<'_>) -> Vec<Row>),
}

impl RankMethod {
    fn statistic(&self) -> Statistic {
        match self.raters {
            Raters::LastRow => Statistic::LastAttention,
            Raters::Chosen(_) => Statistic::TextAttention,
        }
    }

    /// Its defaults.
    pub fn schedule(&self) -> RankSchedule {
        RankSchedule {
            rank_layers: self.rank_layers.to_vec(),
            keep: self.keep.to_vec(),
        }
    }
}

policy_fields! {
    /// The fields of a ranking policy. The defaults are its [method](RankMethod)'s.
    pub struct RankSchedule {
        /// The layers whose attention ranks the vision tokens, ascending, from 0 to the last layer. Fewer tokens run from
        /// the layer after each of them on.
        pub rank_layers: Vec<usize>,

        /// How many tokens go on after each of them: one budget per rank layer. 0 is an exit.
        pub keep: Vec<Budget>,
    }
}

impl RankSchedule {
    /// The budget of a layer, if it ranks.
    fn budget(&self, il: usize) -> Option<Budget> {
        let mut ranked = self.rank_layers.iter().zip(&self.keep);
        ranked.find_map(|(&rank_layer, &budget)| (rank_layer == il).then_some(budget))
    }
}

impl PolicyFields for RankSchedule {
    type Kind = RankMethod;

    fn read(method: RankMethod, base: Option<&Self>, given: &PolicyOverrides) -> Result<Self, PolicyError> {
        match base {
            Some(base) => Self::over(Some(base), given),
            None => Self::over(Some(&method.schedule()), given),
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
            }),
            _ => Ok(()),
        }
    }

    fn cuts(&self, n_layer: usize) -> Vec<usize> {
        let after = self.rank_layers.iter().map(|il| il.saturating_add(1));
        after.filter(|&il| il < n_layer).collect()
    }

    fn stage_policy(
        &self,
        method: RankMethod,
        n_layer: usize,
        layout: &PromptLayout,
    ) -> Box<dyn StagePolicy> {
        Box::new(Ranking::new(method, self.clone(), n_layer, layout))
    }
}

/// A [`RankMethod`] at work on one prompt.
#[derive(Debug, Clone)]
pub struct Ranking {
    method: RankMethod,
    schedule: RankSchedule,
    n_layer: usize,
    layout: PromptLayout,
    /// The rows of [`Raters::Chosen`].
    raters: Vec<Row>,
    /// The first layer after which fewer tokens went on.
    first_drop: Option<usize>,
    exit_layer: Option<usize>,
}

impl Ranking {
    /// The schedule should be valid for `n_layer` layers.
    pub fn new(method: RankMethod, schedule: RankSchedule, n_layer: usize, layout: &PromptLayout) -> Self {
        Self {
            method,
            schedule,
            n_layer,
            layout: layout.clone(),
            raters: Vec::new(),
            first_drop: None,
            exit_layer: None,
        }
    }

    /// The tokens that go on after a layer, if it ranks.
    fn n_kept(&self, il: usize) -> Option<usize> {
        let budget = self.schedule.budget(il)?;
        Some(budget.of(self.layout.n_vision()))
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
            Some(il) if Some(il) == self.n_layer.checked_sub(1) => Some(Skipped::TooLate { il }),
            Some(_) => None,
        }
    }
}

impl StagePolicy for Ranking {
    fn needs_embeddings(&self) -> Needs {
        match self.method.raters {
            Raters::LastRow => Needs::Nothing,
            Raters::Chosen(_) => Needs::VisionAndText,
        }
    }

    fn begin(&mut self, entered: &[VisionIndex], embeddings: &Embeddings<'_>) {
        if let Raters::Chosen(choose) = self.method.raters {
            self.raters = choose(&self.layout, entered, embeddings);
        }
    }

    fn raters(&self) -> &[Row] {
        &self.raters
    }

    fn plan(&self, il: usize) -> LayerPlan {
        let n_kept = self.n_kept(il).filter(|_| self.exit_layer.is_none());
        LayerPlan {
            stage: self.stage(il),
            // Nothing has to be ranked where nothing is kept.
            probe: n_kept.filter(|&n| n > 0).map(|_| self.method.statistic()),
            decides: n_kept.is_some(),
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, il: usize, reading: Option<&Reading>) -> Decision {
        let Some(reading) = reading.and_then(Reading::attention) else {
            self.first_drop.get_or_insert(il);
            self.exit_layer = Some(il);
            return Decision::Keep(Vec::new());
        };
        let n_kept = self.n_kept(il).unwrap_or(usize::MAX);
        if n_kept >= reading.tokens.len() {
            return Decision::KeepAll;
        }
        self.first_drop.get_or_insert(il);
        Decision::Keep(largest(&reading.tokens, &reading.weight, n_kept))
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            exit_layer: self.exit_layer,
            skipped: self.skipped(),
            ..Outcome::default()
        }
    }
}
