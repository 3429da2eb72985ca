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

use super::budget::Budget;
use super::rank::{RankMethod, Raters};

/// The paper's setting, K = 2 and R = 50 %.
pub const FASTV: RankMethod = RankMethod {
    raters: Raters::LastRow,
    rank_layers: &[1],
    keep: &[Budget::Percent(50.0)],
};
