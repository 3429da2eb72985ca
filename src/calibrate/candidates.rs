//! Policies worth trying, with thresholds taken from what the model's own dense runs have read.
//!
//! For every `shallow_mid_layer` that the profile leaves open:
//!
//! - `layer_threshold`: such that fusion falls on the first layer that is searched for all prompts, or for a share of them
//!   ([`FIRE_SHARES`]);
//! - `tokens_threshold`, relative to the attention output: above all contributions that were read, so that nothing goes
//!   on, and down to what half of the tokens exceed ([`TOKEN_STEPS`]);
//! - the exit: none, or `exit_threshold` such that a share of the layers after fusion counts ([`EXIT_SHARES`]).
//!
//! Where all prompts fuse at one layer and nothing is kept there is nothing to measure: that is a scheduled exit.

use std::ops::RangeInclusive;

use super::Dense;
use super::readings::{Replay, quantile, replay, turn};
use crate::policy::config::{ExitCount, Layer0, Stages, TokensThresholdUnit, VisiPrunerConfig};

/// Shares of the prompts that fuse at the first layer searched.
const FIRE_SHARES: [f64; 5] = [1.0, 0.9, 0.75, 0.5, 0.25];
/// Token thresholds between the largest contribution and the one that half of the tokens exceed, evenly by logarithm.
const TOKEN_STEPS: i32 = 12;
/// Shares of the layers after fusion that count towards the exit.
const EXIT_SHARES: [f64; 4] = [0.25, 0.5, 0.75, 0.95];
/// Layers that complete the exit: the paper's.
const EXIT_LAYERS: usize = 2;
/// Of the smallest turn that must fire, so much is asked for: other prompts may turn less.
const MARGIN: f64 = 0.5;

/// A policy that may be tried.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub config: VisiPrunerConfig,
    /// Vision rows that each layer would compute, `[n_layer]`, as a share of all, on average over the prompts.
    pub rows: Vec<f64>,
}

impl Candidate {
    fn new(config: VisiPrunerConfig, replays: &[Replay]) -> Self {
        let n_layer = replays.first().map_or(0, |replay| replay.vision_rows.len());
        let share = |il: usize| {
            let shares = replays
                .iter()
                .map(|replay| replay.vision_rows[il] as f64 / replay.vision_rows[0].max(1) as f64);
            shares.sum::<f64>() / replays.len() as f64
        };
        Self {
            config,
            rows: (0..n_layer).map(share).collect(),
        }
    }

    /// Vision rows over all layers, as a share of those without pruning.
    pub fn cost(&self) -> f64 {
        self.rows.iter().sum::<f64>() / self.rows.len().max(1) as f64
    }

    /// Whether it computes no more than `other` in any layer: what the other one has lost, it has lost, too.
    pub fn keeps_no_more_than(&self, other: &Self) -> bool {
        self.rows
            .iter()
            .zip(&other.rows)
            .all(|(mine, others)| *mine <= others + 1e-12)
    }
}

/// All candidates, cheapest first. No two are the same policy, and each drops something.
pub(super) fn candidates(ks: RangeInclusive<usize>, dense: &[&Dense]) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    for k in ks {
        for layer_threshold in layer_thresholds(k + 1, dense) {
            for candidate in of_fusion(k, layer_threshold, dense) {
                if candidate.cost() < 1.0 && !all.iter().any(|other| other.config == candidate.config) {
                    all.push(candidate);
                }
            }
        }
    }
    all.sort_by(|a, b| a.cost().total_cmp(&b.cost()));
    all
}

/// Thresholds that layer `il` falls below for some share of the prompts.
fn layer_thresholds(il: usize, dense: &[&Dense]) -> Vec<f64> {
    let mut turns: Vec<f64> = dense
        .iter()
        .map(|dense| turn(&dense.observed.readings[il]))
        .collect();
    turns.sort_by(|a, b| b.total_cmp(a));
    let mut thresholds: Vec<f64> = Vec::new();
    for share in FIRE_SHARES {
        let n_fire = ((share * turns.len() as f64).round() as usize).clamp(1, turns.len());
        let smallest = turns[n_fire - 1];
        let turn = match turns.get(n_fire) {
            Some(next) => (smallest * next).sqrt(),
            None => smallest * MARGIN,
        };
        let threshold = below_one(turn);
        if turn > 0.0 && threshold < 1.0 && !thresholds.contains(&threshold) {
            thresholds.push(threshold);
        }
    }
    thresholds
}

/// The candidates that fuse so.
fn of_fusion(k: usize, layer_threshold: f64, dense: &[&Dense]) -> Vec<Candidate> {
    let base = VisiPrunerConfig {
        stages: stages(true, false),
        shallow_mid_layer: k,
        layer_threshold,
        tokens_threshold: 0.0,
        tokens_threshold_unit: TokensThresholdUnit::Relative,
        exit_layers: EXIT_LAYERS,
        exit_count: ExitCount::Cumulative,
        layer0: Layer0::None,
        ..VisiPrunerConfig::default()
    };
    let fused = replays(&base, dense);
    let norms = norms_at_fusion(&fused, dense);
    if norms.is_empty() {
        return Vec::new();
    }
    // Other prompts may have larger contributions than those seen.
    let above_all = VisiPrunerConfig {
        tokens_threshold: two_digits(2.0 * norms[0]),
        ..base.clone()
    };
    let mut found = vec![nothing_kept(above_all, &fused, dense)];
    for tokens_threshold in tokens_thresholds(&norms) {
        let config = VisiPrunerConfig {
            tokens_threshold,
            ..base.clone()
        };
        found.extend(with_exits(&config, dense));
    }
    found
}

/// Fusion and exit in one. Where all prompts fuse in one layer, that is a schedule.
fn nothing_kept(config: VisiPrunerConfig, fused: &[Replay], dense: &[&Dense]) -> Candidate {
    let il_first = config.shallow_mid_layer + 1;
    let all_at_once = fused.iter().all(|replay| replay.fusion_layer == Some(il_first));
    let config = if all_at_once {
        VisiPrunerConfig {
            stages: stages(false, true),
            mid_deep_layer: Some(il_first + 1),
            ..config
        }
    } else {
        config
    };
    let replays = replays(&config, dense);
    Candidate::new(config, &replays)
}

/// A fusion with every exit.
fn with_exits(config: &VisiPrunerConfig, dense: &[&Dense]) -> Vec<Candidate> {
    let without = replays(config, dense);
    let mut turns: Vec<f64> = without
        .iter()
        .flat_map(|replay| replay.turns_after_fusion.iter().copied())
        .collect();
    turns.sort_by(f64::total_cmp);
    let exits = EXIT_SHARES.iter().map(|&share| VisiPrunerConfig {
        stages: stages(true, true),
        exit_threshold: below_one(quantile(&turns, share)),
        ..config.clone()
    });
    let exits = exits.map(|config| Candidate::new(config.clone(), &replays(&config, dense)));
    std::iter::once(Candidate::new(config.clone(), &without))
        .chain(exits.filter(|_| !turns.is_empty()))
        .collect()
}

fn stages(middle: bool, deep: bool) -> Stages {
    Stages {
        shallow: false,
        middle,
        deep,
    }
}

fn replays(config: &VisiPrunerConfig, dense: &[&Dense]) -> Vec<Replay> {
    let of = |dense: &&Dense| replay(config, &dense.observed.readings);
    dense.iter().map(of).collect()
}

/// The relative norms of all vision tokens of all prompts, each in the layer where its prompt fuses, descending.
fn norms_at_fusion(fused: &[Replay], dense: &[&Dense]) -> Vec<f64> {
    let with_layer = fused.iter().zip(dense).filter_map(|(replay, dense)| {
        let il = replay.fusion_layer?;
        Some(dense.observed.readings[il].relative_norms())
    });
    let mut norms: Vec<f64> = with_layer.flatten().collect();
    norms.sort_by(|a, b| b.total_cmp(a));
    norms
}

/// Thresholds that let some of the tokens through, of their (descending) norms. No two let the same ones through.
fn tokens_thresholds(norms: &[f64]) -> Vec<f64> {
    let (largest, half) = (norms[0], norms[norms.len() / 2]);
    let smallest = if half > 0.0 { half } else { 1e-3 * largest };
    let mut thresholds = Vec::new();
    let mut n_before = 0;
    for step in 1..=TOKEN_STEPS {
        let share = f64::from(step) / f64::from(TOKEN_STEPS);
        let threshold = two_digits(largest * (smallest / largest).powf(share));
        let n_above = norms.partition_point(|norm| *norm > threshold);
        if n_above > n_before {
            thresholds.push(threshold);
        }
        n_before = n_above;
    }
    thresholds
}

/// `1 - turn`, with two digits of the turn.
fn below_one(turn: f64) -> f64 {
    let turn = two_digits(turn);
    if turn <= 0.0 {
        return 1.0;
    }
    // As many decimals as the turn has: a difference in binary has more of them than anyone wants to read.
    let n_decimals = (1 - turn.log10().floor() as i32).clamp(2, 15) as usize;
    format!("{:.n_decimals$}", 1.0 - turn)
        .parse()
        .unwrap_or(1.0 - turn)
}

/// Two significant digits: more would say more than some prompts can.
fn two_digits(x: f64) -> f64 {
    format!("{x:.1e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::fake::{Fake, dense_runs};

    #[test]
    fn numbers_have_two_digits() {
        assert_eq!(
            [0.012_345, 1.96, 1e-9, 0.0].map(two_digits),
            [0.012, 2.0, 1e-9, 0.0]
        );
        assert_eq!(
            [0.000_123, 0.25, 1.5, 0.0].map(below_one),
            [0.999_88, 0.75, -0.5, 1.0]
        );
    }

    /// Twelve steps from 1 to 0.001 are factors of 0.56. Below 0.2 they let through nothing more.
    #[test]
    fn token_thresholds_let_through_more_and_more() {
        assert_eq!(tokens_thresholds(&[1.0, 0.2, 0.001, 0.001, 0.001]), [0.56, 0.18]);
        let thresholds = tokens_thresholds(&[0.5, 0.0, 0.0]);
        assert_eq!(thresholds, [0.28], "what is nothing is never kept");
    }

    /// The fake's prompts turn by different amounts, so that each share has its own threshold.
    #[test]
    fn layer_thresholds_fire_for_their_share_of_the_prompts() {
        let fake = Fake::default();
        let dense = dense_runs(&fake, 20);
        let dense: Vec<&Dense> = dense.iter().collect();
        let il = fake.reads.start;
        let n_fire = |threshold: f64| {
            let is_below = |dense: &&&Dense| 1.0 - turn(&dense.observed.readings[il]) < threshold;
            dense.iter().filter(is_below).count()
        };
        let fired: Vec<usize> = layer_thresholds(il, &dense).iter().map(|&t| n_fire(t)).collect();
        let close = |(fired, expected): (&usize, usize)| fired.abs_diff(expected) <= 1;
        assert_eq!(fired[0], 20, "no prompt may be left out by rounding");
        assert!(
            fired.len() == 5 && fired.iter().zip([20, 18, 15, 10, 5]).all(close),
            "{fired:?}"
        );
    }

    #[test]
    fn candidates_ascend_and_are_valid() {
        let fake = Fake::default();
        let dense = dense_runs(&fake, 12);
        let dense: Vec<&Dense> = dense.iter().collect();
        let all = candidates(2..=5, &dense);
        assert!(all.len() > 100, "{}", all.len());
        assert!(all.windows(2).all(|pair| pair[0].cost() <= pair[1].cost()));
        for candidate in &all {
            crate::policy::PolicyConfig::VisiPruner(candidate.config.clone())
                .validate_for(fake.n_layer)
                .unwrap();
            assert_eq!(
                candidate.rows[..=candidate.config.shallow_mid_layer + 1],
                vec![1.0; candidate.config.shallow_mid_layer + 2]
            );
        }
        // All prompts, nothing kept: vision ends after layer 3.
        let schedule = all.iter().find(|c| c.config.mid_deep_layer == Some(4)).unwrap();
        assert!((schedule.cost() - 4.0 / fake.n_layer as f64).abs() < 1e-12);
        assert!(schedule.keeps_no_more_than(schedule));
        let later = all.iter().find(|c| c.config.mid_deep_layer == Some(5)).unwrap();
        assert!(schedule.keeps_no_more_than(later) && !later.keeps_no_more_than(schedule));
    }
}
