//! What a layer can be asked: the statistics that policies decide by.

use super::VisionIndex;

/// What is read from the attention of one layer. The engine computes only what a plan asks for.
///
/// `a[h][i][j]` is the weight of query `i` on key `j` in head `h`, `last` the last prompt row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Statistic {
    /// How much each vision token adds to the attention output of the last prompt row: a [`ProbeReading`].
    Contribution,
    /// The attention of the last prompt row, averaged over heads: `mean_h a[h][last][j]`, an [`AttentionReading`].
    LastAttention,
    /// The attention of the rater rows `R`, averaged over heads and raters: `mean_{i in R} mean_h a[h][i][j]`, an
    /// [`AttentionReading`]. The policy names the rows, see [`StagePolicy::raters`](super::StagePolicy::raters). A rater
    /// does not see an image that comes after it and counts as zero there.
    TextAttention,
}

/// What a layer answered.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reading {
    /// To [`Statistic::Contribution`].
    Contribution(ProbeReading),
    /// To [`Statistic::LastAttention`] and [`Statistic::TextAttention`].
    Attention(AttentionReading),
}

impl Reading {
    /// The vision tokens present, ascending.
    pub fn tokens(&self) -> &[VisionIndex] {
        match self {
            Self::Contribution(reading) => &reading.tokens,
            Self::Attention(reading) => &reading.tokens,
        }
    }

    /// The contributions, if it is they that were asked for.
    pub fn contribution(&self) -> Option<&ProbeReading> {
        match self {
            Self::Contribution(reading) => Some(reading),
            Self::Attention(_) => None,
        }
    }

    /// The attention weights, if it is they that were asked for.
    pub fn attention(&self) -> Option<&AttentionReading> {
        match self {
            Self::Attention(reading) => Some(reading),
            Self::Contribution(_) => None,
        }
    }
}

/// The contributions `c_j = concat_h(a[h][last][j] * v[g(h)][j])` of the vision tokens to the attention output `o` of
/// the last prompt token in one layer, as sums from which cosine and norm follow in closed form (see
/// [`contribution`](super::contribution)).
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReading {
    /// The vision tokens still present, ascending; the other vectors are parallel to it.
    pub tokens: Vec<VisionIndex>,
    /// `||c_j||^2`
    pub norm2: Vec<f64>,
    /// `o . c_j`
    pub dot: Vec<f64>,
    /// `||o||^2`
    pub output_norm2: f64,
}

/// The attention that the vision tokens get in one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionReading {
    /// The vision tokens still present, ascending.
    pub tokens: Vec<VisionIndex>,
    /// The weight on each, from 0 to 1, parallel to `tokens`.
    pub weight: Vec<f64>,
}

/// The `n` tokens with the largest value, ascending; among equals the earlier ones. More than there are gives all.
///
/// `values` is parallel to `tokens`; a token without a value is not kept.
pub fn largest(tokens: &[VisionIndex], values: &[f64], n: usize) -> Vec<VisionIndex> {
    let mut order: Vec<(VisionIndex, f64)> = tokens.iter().copied().zip(values.iter().copied()).collect();
    order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut kept: Vec<VisionIndex> = order.into_iter().take(n).map(|(token, _)| token).collect();
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_ascend_and_ties_go_to_the_earlier() {
        let tokens: Vec<VisionIndex> = [2, 3, 5, 8, 9].map(VisionIndex).to_vec();
        let values = [0.5, 0.75, 0.5, 0.75, 0.25];
        let of = |n| {
            largest(&tokens, &values, n)
                .iter()
                .map(|token| token.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(0), [0; 0]);
        assert_eq!(of(1), [3]);
        assert_eq!(of(2), [3, 8]);
        assert_eq!(of(3), [2, 3, 8]);
        assert_eq!(of(9), [2, 3, 5, 8, 9]);
        assert_eq!(largest(&tokens, &[0.5], 3), [VisionIndex(2)]);
    }
}
