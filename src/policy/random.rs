//! Vision tokens drawn at random before the language model: a control for policies that choose.
//!
//! It reads nothing. Every subset of `budget` tokens is equally likely; the same `seed` and number of tokens give the same
//! subset on every machine and in every version, which is why the generator stands here: SplitMix64 (Steele, Lea and
//! Flood, OOPSLA 2014), numbers below a bound by the high half of a 64 x 64 bit product, a partial Fisher-Yates shuffle.

use serde::{Deserialize, Serialize};

use super::before::{BeforeConfig, BeforeModel, DEFAULT_BUDGET, Selection};
use super::budget::Budget;
use super::config::{FamilyFields, PolicyFields, PolicyOverrides};
use super::{Embeddings, PolicyError, PromptLayout, StagePolicy, VisionIndex};

/// The fields of the policy `random`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomConfig {
    /// As [`BeforeConfig::budget`].
    pub budget: Budget,
    /// Seed of the draw. Any number from 0 to 2^63 - 1 (what a TOML file can hold). Default: 0.
    pub policy_seed: u64,
}

impl Default for RandomConfig {
    fn default() -> Self {
        Self {
            budget: DEFAULT_BUDGET,
            policy_seed: 0,
        }
    }
}

impl PolicyFields for RandomConfig {
    const FIELDS: &'static [&'static str] = &["budget", "policy_seed"];
    const BEFORE_MODEL: bool = true;

    fn read(base: Option<&Self>, fields: &PolicyOverrides) -> Result<Self, PolicyError> {
        let base = base.copied().unwrap_or_default();
        Ok(Self {
            budget: fields.budget.unwrap_or(base.budget),
            policy_seed: fields.policy_seed.unwrap_or(base.policy_seed),
        })
    }

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

    fn stage_policy(&self, _n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
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
        let mut numbers = SplitMix64(self.seed);
        let mut tokens = present.to_vec();
        for i in 0..n {
            let j = i + numbers.below((tokens.len() - i) as u64) as usize;
            tokens.swap(i, j);
        }
        tokens.truncate(n);
        tokens.sort_unstable();
        tokens
    }
}

struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `n - 1`. The bias is below `n / 2^64`.
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
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

    /// The first outputs for seed 1234567, as published with the generator's reference code.
    #[test]
    fn the_generator_is_splitmix64() {
        let mut numbers = SplitMix64(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!([numbers.next(), numbers.next(), numbers.next()], expected);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        assert_eq!(draw(7, 64, 10), draw(7, 64, 10));
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
