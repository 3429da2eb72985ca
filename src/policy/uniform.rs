//! Evenly spaced vision tokens, in the order of the prompt: a control for policies that choose.
//!
//! It reads nothing. Of `n` tokens the `m`-th of `budget` is number `floor((2 m + 1) n / (2 budget))`: the middle of each
//! of `budget` equal stretches. Tokens of a picture stand row by row, so where the width of the picture is a multiple of
//! the stretch this takes columns of it.

use super::before::Selection;
use super::{Embeddings, VisionIndex};

/// The choice.
#[derive(Debug, Clone, Copy)]
pub struct EvenlySpaced;

impl Selection for EvenlySpaced {
    fn select(&self, n: usize, present: &[VisionIndex], _embeddings: &Embeddings<'_>) -> Vec<VisionIndex> {
        let n = n.min(present.len());
        let middle = |m: usize| present[(2 * m + 1) * present.len() / (2 * n)];
        (0..n).map(middle).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_middles_of_equal_stretches() {
        let of = |n_present: u32, n: usize| {
            let present: Vec<VisionIndex> = (0..n_present).map(VisionIndex).collect();
            let kept = EvenlySpaced.select(n, &present, &Embeddings::default());
            kept.into_iter().map(|token| token.0).collect::<Vec<_>>()
        };
        assert_eq!(of(12, 4), [1, 4, 7, 10]);
        assert_eq!(of(7, 1), [3]);
        assert_eq!(of(2, 1), [1]);
        assert_eq!(of(10, 4), [1, 3, 6, 8]);
        assert_eq!(of(5, 4), [0, 1, 3, 4]);
    }

    #[test]
    fn every_number_of_tokens_is_met_without_repeats() {
        for n_present in 2..40_u32 {
            let present: Vec<VisionIndex> = (0..n_present).map(VisionIndex).collect();
            for n in 1..n_present as usize {
                let kept = EvenlySpaced.select(n, &present, &Embeddings::default());
                assert_eq!(kept.len(), n);
                assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
    }
}
