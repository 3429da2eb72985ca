//! Vision tokens drawn at random before the language model: a control for policies that choose.
//!
//! It reads nothing. Every subset of `budget` tokens is equally likely: a partial Fisher-Yates shuffle. The same `seed` and
//! number of tokens give the same subset on every machine and in every version.

use super::before::{BeforeConfig, BeforeModel, DEFAULT_BUDGET, Selection};
use super::budget::Budget;
use super::config::PolicyFields;
use super::config::fields::policy_fields;
use super::{Embeddings, PolicyError, PromptLayout, StagePolicy, VisionIndex};
use crate::rng::Rng;

policy_fields! {
    /// The fields of the policy `random`.
    pub struct RandomConfig {
        /// As [`BeforeConfig::budget`].
        pub budget: Budget = DEFAULT_BUDGET,

        /// Seed of the draw. Any number from 0 to 2^63 - 1 (what a TOML file can hold). Default: 0.
        pub policy_seed: u64 = 0,
    }
}

impl PolicyFields for RandomConfig {
    type Kind = ();
    const BEFORE_MODEL: bool = true;

    fn validate(&self) -> Result<(), PolicyError> {
        if i64::try_from(self.policy_seed).is_err() {
            return Err(PolicyError::OutOfRange {
                field: "policy_seed",
                value: self.policy_seed.to_string(),
                range: format!("from 0 to {}", i64::MAX),
            });
        }
        BeforeConfig { budget: self.budget }.validate()
    }

    fn stage_policy(&self, _kind: (), _n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
        let draw = Draw {
            seed: self.policy_seed,
        };
        Box::new(BeforeModel::new(draw, self.budget, layout.n_vision()))
    }
}

/// The draw.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Same seed, same subset.
    pub seed: u64,
}

impl Selection for Draw {
    fn select(&self, n: usize, present: &[VisionIndex], _embeddings: &Embeddings<'_>) -> Vec<VisionIndex> {
        let mut numbers = Rng::new(self.seed);
        let mut tokens = present.to_vec();
        for i in 0..n.min(tokens.len()) {
            let j = i + numbers.below(tokens.len() - i);
            tokens.swap(i, j);
        }
        tokens.truncate(n);
        tokens.sort_unstable();
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, n_present: u32, n: usize) -> Vec<u32> {
        let present: Vec<VisionIndex> = (0..n_present).map(VisionIndex).collect();
        let kept = Draw { seed }.select(n, &present, &Embeddings::default());
        kept.into_iter().map(|token| token.0).collect()
    }

    /// The literal was computed apart from this code.
    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        assert_eq!(draw(7, 64, 10), [2, 4, 15, 19, 24, 25, 31, 33, 38, 57]);
        assert_ne!(draw(7, 64, 10), draw(8, 64, 10));
        let kept = draw(7, 64, 10);
        assert!(kept.len() == 10 && kept.windows(2).all(|pair| pair[0] < pair[1]) && kept[9] < 64);
    }

    #[test]
    fn every_token_is_as_likely_as_any_other() {
        let mut n_kept = [0_u32; 12];
        for seed in 0..12_000 {
            for token in draw(seed, 12, 3) {
                n_kept[token as usize] += 1;
            }
        }
        // 3000 each, with a standard deviation of 47.
        assert!(n_kept.iter().all(|n| (2800..3200).contains(n)), "{n_kept:?}");
    }
}
