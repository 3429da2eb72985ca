//! SparseVLM (Zhang et al., ICML 2025, arXiv 2410.04417): the text tokens that have most to do with the picture rate the
//! vision tokens, in several layers.
//!
//! Before layer 0 it reads embeddings: vision rows `v_i` and the text rows `t_j` after the last image. Rater is every text
//! row whose share of the vision tokens' affinity is at least the mean of these shares:
//!
//! ```text
//! r_j = mean_i softmax_j(v_i . t_j)        R = { j : r_j >= mean_j r_j }
//! ```
//!
//! In each rank layer it reads `s_j = mean_{i in R} mean_h a[h][i][j]` and keeps the tokens of the largest `s_j`
//! ([`rank`](super::rank)). Defaults: the published setting for 192 of 576 tokens on average, `rank_layers = [2, 6, 15]`
//! and `keep = [300, 200, 110]`.
//!
//! Differences from the published code and the paper: **no token recycling**: the paper merges some of the dropped tokens
//! into a few new ones, here dropped tokens are gone; the number kept is given by `keep`, not derived from the rank of the
//! attention matrix (the code's tables give it, too). Raters are the paper's `>=` (the code: `>`, which differs in ties
//! only); shares within rounding of the mean count as equal to it. Kept tokens keep their positions, where the code numbers
//! them anew.

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::config::FamilyPolicy;
use super::rank::{RankSchedule, Ranking};
use super::{
    Decision, Embeddings, LayerPlan, Needs, Outcome, PromptLayout, Reading, Row, StagePolicy, Statistic,
    VisionIndex,
};

/// The fields of the policy `sparsevlm`. Default: the published ones for 192 of 576 tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SparseVlmConfig(pub RankSchedule);

impl Default for SparseVlmConfig {
    fn default() -> Self {
        Self(RankSchedule {
            rank_layers: vec![2, 6, 15],
            keep: [300, 200, 110].map(Budget::Count).to_vec(),
        })
    }
}

impl FamilyPolicy for SparseVlmConfig {
    type Fields = RankSchedule;

    fn from_fields(fields: RankSchedule) -> Self {
        Self(fields)
    }

    fn fields(&self) -> &RankSchedule {
        &self.0
    }

    fn at_work(&self, n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
        Box::new(SparseVlm::new(self.0.clone(), n_layer, layout))
    }
}

/// The raters and the ranking at work on one prompt.
#[derive(Debug, Clone)]
pub struct SparseVlm {
    ranking: Ranking,
    layout: PromptLayout,
    raters: Vec<Row>,
}

impl SparseVlm {
    /// The schedule must be valid for `n_layer` layers.
    pub fn new(schedule: RankSchedule, n_layer: usize, layout: &PromptLayout) -> Self {
        Self {
            ranking: Ranking::new(schedule, Statistic::TextAttention, n_layer, layout.n_vision()),
            layout: layout.clone(),
            raters: Vec::new(),
        }
    }
}

impl StagePolicy for SparseVlm {
    fn needs_embeddings(&self) -> Needs {
        Needs::VisionAndText
    }

    fn start(&mut self, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Decision {
        self.raters = raters(&self.layout, present, embeddings);
        Decision::KeepAll
    }

    fn raters(&self) -> &[Row] {
        &self.raters
    }

    fn plan(&self, il: usize) -> LayerPlan {
        self.ranking.plan(il)
    }

    fn decide(&mut self, il: usize, reading: Option<&Reading>) -> Decision {
        self.ranking.decide(il, reading)
    }

    fn boundaries(&self, n_layer: usize) -> Vec<usize> {
        self.ranking.boundaries(n_layer)
    }

    fn vision_bound(&self, il: usize) -> Option<usize> {
        self.ranking.vision_bound(il)
    }

    fn outcome(&self) -> Outcome {
        self.ranking.outcome()
    }
}

/// What counts as equal to the mean share, relative to it: shares are sums of as many terms as there are vision tokens.
const SHARE_ROUNDING: f64 = 1e-9;

/// The rows of the text after the last image whose share of the affinity of the vision tokens present is at least the
/// mean, ascending.
///
/// # Panics
/// Without embeddings of the text.
pub fn raters(layout: &PromptLayout, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Vec<Row> {
    let text = embeddings.text.expect("the embeddings that the policy needs");
    let rows = layout.text_rows();
    let first = layout.vision.last().map_or(0, |span| span.end);
    let n_before = rows.iter().filter(|row| (row.0 as usize) < first).count();
    let after = &text[n_before * embeddings.n_embd..];
    let shares = affinity_shares(present, after, embeddings);
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    // Embeddings that are not finite must not leave a prompt without raters.
    let is_rater = |share: f64| share >= mean * (1.0 - SHARE_ROUNDING) || share.is_nan();
    let rows = rows[n_before..].iter().zip(shares);
    rows.filter(|&(_, share)| is_rater(share))
        .map(|(&row, _)| row)
        .collect()
}

/// `r_j`, summed instead of averaged over the vision tokens, which does not matter for what is at least the mean.
fn affinity_shares(present: &[VisionIndex], text: &[f32], embeddings: &Embeddings<'_>) -> Vec<f64> {
    let mut shares = vec![0.0; text.len() / embeddings.n_embd];
    for &token in present {
        let vision = embeddings.vision_row(token);
        let affinity: Vec<f64> = text
            .chunks_exact(embeddings.n_embd)
            .map(|text| dot(vision, text))
            .collect();
        let max = affinity.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = affinity.iter().map(|affinity| (affinity - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (share, weight) in shares.iter_mut().zip(weights) {
            *share += weight / sum;
        }
    }
    shares
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}
