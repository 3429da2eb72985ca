//! PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247): in stages, ever fewer vision tokens go on, those that get the
//! most attention from the last token of the instruction.
//!
//! It reads `s_j = mean_h a[h][last][j]` at the end of each stage and keeps the tokens of the largest `s_j`
//! ([`rank`](super::rank)). Of 32 layers the paper makes four stages that begin at layers 0, 8, 16 and 24 with 100, 50, 25
//! and 12.5 % of the tokens: `rank_layers = [7, 15, 23]` and `keep = ["50%", "25%", "12.5%"]`, the defaults.
//!
//! Differences from the published code: it ranks between two layers, with the query and key projections of the layer that
//! comes next applied to what the last one left, an extra product; here the attention of the last layer of the stage
//! ranks, which has been computed anyway. It floors shares, here they are rounded. It takes the last token of the
//! instruction, which in a prompt to be answered is the last prompt token.

use super::budget::Budget;
use super::rank::{RankMethod, Raters};

/// The paper's setting for 32 layers.
pub const PYRAMID_DROP: RankMethod = RankMethod {
    raters: Raters::LastRow,
    rank_layers: &[7, 15, 23],
    keep: &[
        Budget::Percent(50.0),
        Budget::Percent(25.0),
        Budget::Percent(12.5),
    ],
};
