//! What the dense runs have read, and what a policy would have done with it.

use serde::Serialize;

use super::Dense;
use crate::policy::config::VisiPrunerConfig;
use crate::policy::visipruner::VisiPruner;
use crate::policy::{Decision, ProbeReading, Reading, StagePolicy, VisionIndex};

/// What a policy would do on one prompt.
///
/// Up to the fusion layer it is what it does: everything before ran on all rows. After it the readings are those of a
/// prompt from which nothing was dropped, so that the exit is an estimate.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Replay {
    /// Vision rows computed, `[n_layer]`.
    pub vision_rows: Vec<usize>,
    pub fusion_layer: Option<usize>,
    /// For each layer after fusion with vision: how far leaving out the token that matters most turns the output,
    /// `1 - min cos`.
    pub turns_after_fusion: Vec<f64>,
}

/// Puts the policy to work on what was read.
pub(super) fn replay(config: &VisiPrunerConfig, readings: &[ProbeReading]) -> Replay {
    let n_vision = readings.first().map_or(0, |reading| reading.tokens.len());
    let mut policy = VisiPruner::new(config.clone(), readings.len(), n_vision);
    let mut present: Option<Vec<VisionIndex>> = None;
    let mut replay = Replay {
        vision_rows: Vec::with_capacity(readings.len()),
        fusion_layer: None,
        turns_after_fusion: Vec::new(),
    };
    for (il, all) in readings.iter().enumerate() {
        let n_present = present.as_ref().map_or(n_vision, Vec::len);
        replay.vision_rows.push(n_present);
        let left = present.as_deref().map(|present| restricted(all, present));
        if let Some(left) = left.as_ref().filter(|left| !left.tokens.is_empty()) {
            replay.turns_after_fusion.push(turn(left));
        }
        let plan = policy.plan(il);
        if plan.decides {
            let reading = || Reading::Contribution(left.unwrap_or_else(|| all.clone()));
            let reading = plan.probe.map(|_| reading());
            if let Decision::Keep(kept) = policy.decide(il, reading.as_ref()) {
                present = Some(kept);
            }
        }
    }
    replay.fusion_layer = policy.outcome().fusion_layer;
    replay
}

/// `1 - cos` of the token whose absence turns the output most; 0 where there is none.
pub(super) fn turn(reading: &ProbeReading) -> f64 {
    let min_cos = reading.cosines().into_iter().fold(1.0, f64::min);
    1.0 - min_cos
}

/// The reading of some of its tokens.
fn restricted(reading: &ProbeReading, tokens: &[VisionIndex]) -> ProbeReading {
    let found = tokens
        .iter()
        .filter_map(|token| reading.tokens.binary_search(token).ok());
    let places: Vec<usize> = found.collect();
    let pick = |values: &[f64]| places.iter().map(|&i| values[i]).collect();
    ProbeReading {
        tokens: places.iter().map(|&i| reading.tokens[i]).collect(),
        norm2: pick(&reading.norm2),
        dot: pick(&reading.dot),
        output_norm2: reading.output_norm2,
    }
}

/// What was read in one layer, over all prompts: 10 %, 50 % and 90 % of them are at most there.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct LayerReadings {
    /// The smallest `cos(o - c_j, o)` of a prompt.
    pub min_cos: [f64; 3],
    /// The largest `||c_j|| / ||o||` of a prompt.
    pub max_relative_norm: [f64; 3],
}

/// The layers of the dense runs.
pub(super) fn summary(dense: &[Dense]) -> Vec<LayerReadings> {
    let n_layer = dense.first().map_or(0, Dense::n_layer);
    let layer = |il: usize| {
        let of = |figure: &dyn Fn(&ProbeReading) -> f64| {
            let mut values: Vec<f64> = dense
                .iter()
                .map(|dense| figure(&dense.observed.readings[il]))
                .collect();
            values.sort_by(f64::total_cmp);
            [0.1, 0.5, 0.9].map(|share| quantile(&values, share))
        };
        LayerReadings {
            min_cos: of(&|reading| 1.0 - turn(reading)),
            max_relative_norm: of(&|reading| reading.relative_norms().into_iter().fold(0.0, f64::max)),
        }
    };
    (0..n_layer).map(layer).collect()
}

/// Of ascending values: the smallest that at least this share of them do not exceed. 0 of none.
pub(super) fn quantile(ascending: &[f64], share: f64) -> f64 {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::{Stages, TokensThresholdUnit};

    /// A reading of `||o|| = 1` with tokens of these relative norms, each at a right angle to the rest of the output:
    /// `o . c = ||c||^2`, and `cos = sqrt(1 - norm^2)`.
    fn reading(norms: &[f64]) -> ProbeReading {
        let norm2: Vec<f64> = norms.iter().map(|norm| norm * norm).collect();
        ProbeReading {
            tokens: (0..norms.len() as u32).map(VisionIndex).collect(),
            dot: norm2.clone(),
            norm2,
            output_norm2: 1.0,
        }
    }

    fn config(layer_threshold: f64, tokens_threshold: f64) -> VisiPrunerConfig {
        VisiPrunerConfig {
            shallow_mid_layer: 0,
            layer_threshold,
            tokens_threshold,
            tokens_threshold_unit: TokensThresholdUnit::Relative,
            exit_threshold: 0.99,
            exit_layers: 1,
            ..VisiPrunerConfig::default()
        }
    }

    /// By hand: layer 0 is k; layer 1 turns too little, layer 2 fuses and keeps tokens 1 and 2; layer 3 turns by 0.6 and
    /// does not count, layer 4 by less than 0.01 and does, layer 5 is without vision.
    #[test]
    fn a_replay_by_hand() {
        let readings = [
            reading(&[0.9, 0.9, 0.9]),
            reading(&[0.1, 0.0, 0.1]),
            reading(&[0.1, 0.6, 0.3]),
            reading(&[0.9, 0.8, 0.1]),
            reading(&[0.9, 0.1, 0.0]),
            reading(&[0.9, 0.1, 0.0]),
        ];
        let replay = replay(&config(0.9, 0.2), &readings);
        assert_eq!(replay.vision_rows, [3, 3, 3, 2, 2, 0]);
        assert_eq!(replay.fusion_layer, Some(2));
        let expected = [1.0 - 0.6, 1.0 - 0.99f64.sqrt()];
        assert_eq!(replay.turns_after_fusion.len(), 2);
        for (turn, expected) in replay.turns_after_fusion.iter().zip(expected) {
            assert!((turn - expected).abs() < 1e-12, "{turn} {expected}");
        }
    }

    #[test]
    fn a_scheduled_exit_needs_no_reading() {
        let readings = vec![reading(&[0.5, 0.5]); 4];
        let config = VisiPrunerConfig {
            stages: Stages {
                shallow: false,
                middle: false,
                deep: true,
            },
            mid_deep_layer: Some(3),
            ..config(0.5, 0.5)
        };
        assert_eq!(replay(&config, &readings).vision_rows, [2, 2, 2, 0]);
    }

    #[test]
    fn quantiles_are_values_that_are_there() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(
            [0.0, 0.25, 0.26, 0.9, 1.0].map(|share| quantile(&values, share)),
            [1.0, 1.0, 2.0, 4.0, 4.0]
        );
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
