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

use super::budget::Budget;
use super::rank::{RankMethod, Raters};
use super::{Embeddings, PromptLayout, Row, VisionIndex};

/// The published setting for 192 of 576 tokens.
pub const SPARSE_VLM: RankMethod = RankMethod {
    raters: Raters::Chosen(raters),
    rank_layers: &[2, 6, 15],
    keep: &[Budget::Count(300), Budget::Count(200), Budget::Count(110)],
};

/// What counts as equal to the mean share, relative to it: shares are sums of as many terms as there are vision tokens.
const SHARE_ROUNDING: f64 = 1e-9;

/// The rows of the text after the last image whose share of the affinity of the vision tokens present is at least the
/// mean, ascending. None without embeddings of the text.
pub fn raters(layout: &PromptLayout, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Vec<Row> {
    let (Some(text), n_embd @ 1..) = (embeddings.text, embeddings.n_embd) else {
        return Vec::new();
    };
    let rows = layout.text_rows();
    let first = layout.vision.last().map_or(0, |span| span.end);
    let n_before = rows.iter().filter(|row| (row.0 as usize) < first).count();
    let after: Vec<&[f32]> = text.chunks_exact(n_embd).skip(n_before).collect();
    let shares = affinity_shares(present, &after, embeddings);
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    // Embeddings that are not finite must not leave a prompt without raters.
    let is_rater = |share: f64| share >= mean * (1.0 - SHARE_ROUNDING) || share.is_nan();
    let rows = rows[n_before..].iter().zip(shares);
    rows.filter(|&(_, share)| is_rater(share))
        .map(|(&row, _)| row)
        .collect()
}

/// `r_j`, summed instead of averaged over the vision tokens, which does not matter for what is at least the mean.
fn affinity_shares(present: &[VisionIndex], text: &[&[f32]], embeddings: &Embeddings<'_>) -> Vec<f64> {
    let mut shares = vec![0.0; text.len()];
    for vision in present.iter().filter_map(|&token| embeddings.vision_row(token)) {
        let affinity: Vec<f64> = text.iter().map(|text| dot(vision, text)).collect();
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
