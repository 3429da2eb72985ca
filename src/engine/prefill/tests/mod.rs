//! The loop against a fake engine: no weights, scripted probes, every call checked.
#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of image spans, of which there is one"
)]

mod ahead;
mod contract;
mod fake;
mod literal;
mod masks;
mod policies;
mod random;
mod schedules;
mod stages;

use std::ops::Range;

use super::*;
use crate::policy::config::*;
use crate::policy::fixed::Schedule;
use crate::policy::{
    PolicyConfig, Row, Skipped, Stage, TextToVision, VisionAttention, VisionIndex, VisionToVision,
};
use fake::{Contribution, Fake, FakeError};

/// BOS and two more text rows, four vision rows, three text rows.
fn one_image() -> PromptLayout {
    PromptLayout {
        n_rows: 10,
        vision: vec![3..7],
    }
}

/// Text between two images: rows 0-1 text, 2-4 image, 5-6 text, 7-9 image, 10-11 text.
fn two_images() -> PromptLayout {
    PromptLayout {
        n_rows: 12,
        vision: vec![2..5, 7..10],
    }
}

const N_LAYER: usize = 10;

/// An engine that can be cut before every layer.
const ANYWHERE: [usize; N_LAYER - 1] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Small enough for ten layers: k = 2, so layers 3 to 9 are probed.
fn config(stages: &str) -> VisiPrunerConfig {
    VisiPrunerConfig {
        stages: stages.parse().unwrap(),
        shallow_mid_layer: 2,
        mid_deep_layer: Some(6),
        ..VisiPrunerConfig::default()
    }
}

/// A prompt in as few calls as can be.
fn at_once(layout: &PromptLayout) -> PrefillParams<'_> {
    PrefillParams {
        layout,
        n_layer: N_LAYER,
        cuts: &ANYWHERE,
        max_rows_per_call: usize::MAX,
        max_rows_per_attention_probe: usize::MAX,
        probe_stride: 1,
        causal_images: true,
        embeddings: None,
        shared: Shared::default(),
    }
}

/// Runs a prompt on a fake engine and holds every rule that holds for any policy against what came out.
fn run_with<'a>(
    engine: &mut Fake,
    layout: &'a PromptLayout,
    policy: &PolicyConfig,
    adjust: impl FnOnce(&mut PrefillParams<'a>),
) -> PrefillTrace {
    let mut params = at_once(layout);
    adjust(&mut params);
    let cuts = policy.cuts(N_LAYER);
    let params = PrefillParams {
        cuts: &cuts,
        ..params
    };
    engine.layout = layout.clone();
    let mut policy = policy.build(N_LAYER, layout).unwrap();
    let trace = prefill(engine, &params, policy.as_mut()).unwrap();
    engine.check_trace(&trace, &params);
    literal::check_attention(engine, &trace, &params);
    trace
}

fn run(engine: &mut Fake, layout: &PromptLayout, config: VisiPrunerConfig) -> PrefillTrace {
    run_with(engine, layout, &PolicyConfig::VisiPruner(config), |_| {})
}

fn indices(tokens: &[u32]) -> Option<Vec<VisionIndex>> {
    Some(tokens.iter().copied().map(VisionIndex).collect())
}

/// Every drop: after which layer, and what went on.
fn drops(trace: &PrefillTrace) -> Vec<(Option<usize>, Vec<u32>)> {
    let kept = |drop: &Drop| drop.kept.iter().map(|token| token.0).collect();
    trace.drops.iter().map(|drop| (drop.after, kept(drop))).collect()
}

fn rows_per_layer(trace: &PrefillTrace) -> Vec<usize> {
    trace.layers.iter().map(|layer| layer.n_rows).collect()
}

fn probed_layers(trace: &PrefillTrace) -> Vec<usize> {
    (0..trace.layers.len())
        .filter(|&il| trace.layers[il].probe.is_some())
        .collect()
}

/// Contributions by which layer 5 fires and keeps vision tokens 1 and 2, which matter in layers 6 and 8 only.
fn typical() -> Fake {
    Fake::new(|il, token| match (il, token.0) {
        (5, 1) => Contribution::Turning(0.3),
        (5, 2) => Contribution::Along(0.25),
        (6 | 8, 1) => Contribution::Turning(0.3),
        _ => Contribution::Turning(0.001),
    })
}
