//! FastV (Chen et al., ECCV 2024, arXiv 2403.06764): after an early layer, the vision tokens that get the most attention
//! from the last prompt token go on.
//!
//! It reads `s_j = mean_h a[h][last][j]` in one layer and keeps the tokens of the largest `s_j` ([`rank`](super::rank)).
//! The paper writes K for the number of layers that run on all tokens and R for the share that is dropped: K = 2 and
//! R = 50 % are the defaults here, `rank_layers = [1]` (the second layer ranks, the third is the first with fewer tokens)
//! and `keep = ["50%"]`.
//!
//! Differences from the published code: it takes the image's place and length from its configuration, here every vision
//! token of every image counts; one of its two variants masks the dropped tokens instead of removing them, here they are
//! removed. More than one rank layer may be given.

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::config::FamilyPolicy;
use super::rank::{RankSchedule, Ranking};
use super::{PromptLayout, StagePolicy, Statistic};

/// The fields of the policy `fastv`. Default: the paper's, K = 2 and R = 50 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FastVConfig(pub RankSchedule);

impl Default for FastVConfig {
    fn default() -> Self {
        Self(RankSchedule {
            rank_layers: vec![1],
            keep: vec![Budget::Percent(50.0)],
        })
    }
}

impl FamilyPolicy for FastVConfig {
    type Fields = RankSchedule;

    fn from_fields(fields: RankSchedule) -> Self {
        Self(fields)
    }

    fn fields(&self) -> &RankSchedule {
        &self.0
    }

    fn at_work(&self, n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
        let ranked_by = Statistic::LastAttention;
        Box::new(Ranking::new(
            self.0.clone(),
            ranked_by,
            n_layer,
            layout.n_vision(),
        ))
    }
}
