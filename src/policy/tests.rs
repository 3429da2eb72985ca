//! What no caller should do, done: none of it panics.

use super::before::{BeforeModel, Selection};
use super::budget::Budget;
use super::config::VisiPrunerConfig;
use super::cost::{KvBytes, encoder_flops, prefill_flops};
use super::divprune::MaxMinDistance;
use super::fastv::FASTV;
use super::fixed::{Fixed, Schedule};
use super::random::Draw;
use super::rank::{RankSchedule, Ranking};
use super::shape::{ModelShape, VisionShape};
use super::sparsevlm;
use super::trace::PrefillTrace;
use super::uniform::EvenlySpaced;
use super::visipruner::{VisiPruner, shallow_attention};
use super::*;

fn tokens(n: u32) -> Vec<VisionIndex> {
    (0..n).map(VisionIndex).collect()
}

/// Spans that descend, overlap, leave the prompt, or end before they begin.
fn malformed() -> [PromptLayout; 4] {
    let layout = |n_rows, vision| PromptLayout { n_rows, vision };
    [
        layout(3, vec![4..6, 1..2]),
        layout(5, vec![1..4, 2..9]),
        layout(0, vec![0..usize::MAX, Range { start: 7, end: 2 }, 8..10]),
        layout(2, vec![9..10, usize::MAX - 1..usize::MAX]),
    ]
}

/// Everything that a prefill asks a policy, for a model with as many layers as it says, and for others.
fn question(policy: &mut dyn StagePolicy) {
    let readings = [
        Reading::Contribution(ProbeReading {
            tokens: tokens(3),
            norm2: vec![f64::NAN],
            dot: Vec::new(),
            output_norm2: -1.0,
        }),
        Reading::Attention(AttentionReading {
            tokens: tokens(3),
            weight: vec![f64::INFINITY],
        }),
    ];
    policy.needs_embeddings();
    policy.start(&tokens(2), &Embeddings::default());
    for il in [0, 1, 2, 31, usize::MAX - 1, usize::MAX] {
        policy.plan(il);
        policy.decide(il, None);
        for reading in &readings {
            policy.decide(il, Some(reading));
        }
    }
    policy.raters();
    policy.evict_after_prefill();
    let outcome = policy.outcome();
    outcome.skipped.map(|reason| reason.to_string());
}

#[test]
fn policies_at_work_without_a_valid_configuration() {
    let layout = PromptLayout::default();
    for n_layer in [0, 1, usize::MAX] {
        for il in [0, 1, usize::MAX] {
            let config = VisiPrunerConfig {
                stages: "shallow,middle,deep".parse().unwrap(),
                shallow_mid_layer: il,
                exit_layers: 0,
                mid_deep_layer: Some(il),
                ..VisiPrunerConfig::default()
            };
            question(&mut VisiPruner::new(config.clone(), n_layer, 0));
            shallow_attention(&config, il);
            let schedule = Schedule {
                fusion_layer: il,
                keep: 1,
                exit_from: 0,
                evict_shallow_kv: true,
                shallow_mid_layer: il,
            };
            question(&mut Fixed::new(schedule, n_layer, 0));
            let ranks = RankSchedule {
                rank_layers: vec![il, 0, il],
                keep: vec![Budget::Percent(f64::NAN)],
            };
            question(&mut Ranking::new(FASTV, ranks, n_layer, &layout));
        }
    }
}

#[test]
fn cuts_of_policies_that_are_not_valid() {
    for il in [0, 1, usize::MAX] {
        let vtw = vtw::VtwConfig { exit_from: il };
        let fixed = Schedule {
            fusion_layer: il,
            ..Schedule::default()
        };
        let ranks = RankSchedule {
            rank_layers: vec![il],
            keep: Vec::new(),
        };
        let stages = VisiPrunerConfig {
            shallow_mid_layer: il,
            ..VisiPrunerConfig::default()
        };
        for policy in [
            PolicyConfig::Vtw(vtw),
            PolicyConfig::Fixed(fixed),
            PolicyConfig::FastV(ranks),
            PolicyConfig::VisiPruner(stages),
        ] {
            for n_layer in [0, 1, 3] {
                let cuts = policy.cuts(n_layer);
                assert!(cuts.iter().all(|&cut| (1..n_layer).contains(&cut)), "{policy:?}");
                let _ = policy.build(n_layer, &PromptLayout::default());
            }
        }
    }
}

#[test]
fn selections_take_what_there_is() {
    let embeddings = Embeddings {
        n_embd: 2,
        vision: &[1.0; 4],
        text: None,
    };
    let selections: [&dyn Selection; 3] = [&MaxMinDistance, &Draw { seed: 1 }, &EvenlySpaced];
    for selection in selections {
        for (n, n_present) in [(0, 0), (0, 2), (1, 0), (2, 2), (5, 2), (2, 5), (usize::MAX, 3)] {
            let kept = selection.select(n, &tokens(n_present), &embeddings);
            assert_eq!(kept.len(), n.min(n_present as usize));
        }
    }
    let mut policy = BeforeModel::new(&EvenlySpaced, Budget::Count(0), 0);
    question(&mut policy);
}

#[test]
fn embeddings_that_are_not_there() {
    let embeddings = Embeddings {
        n_embd: 3,
        vision: &[1.0, 2.0, 3.0, 4.0],
        text: Some(&[1.0]),
    };
    assert_eq!(embeddings.vision_row(VisionIndex(0)), Some(&[1.0, 2.0, 3.0][..]));
    assert_eq!(embeddings.vision_row(VisionIndex(1)), None);
    let wide = Embeddings {
        n_embd: usize::MAX,
        ..embeddings
    };
    assert_eq!(wide.vision_row(VisionIndex(u32::MAX)), None);
    let layout = PromptLayout {
        n_rows: 2,
        vision: std::iter::once(0..1).collect(),
    };
    let none = Embeddings {
        n_embd: 0,
        ..embeddings
    };
    for given in [Embeddings::default(), embeddings, wide, none] {
        assert!(!given.satisfy(Needs::VisionAndText, &layout));
        assert_eq!(sparsevlm::raters(&layout, &tokens(4), &given), []);
    }
}

#[test]
fn prompts_that_are_malformed() {
    for layout in malformed() {
        assert!(!layout.is_well_formed());
        layout.ends_in_image();
        layout.nothing_to_prune();
        assert!(layout.text_rows().len() <= layout.n_rows);
        Embeddings::default().satisfy(Needs::VisionAndText, &layout);
        if layout.n_vision() < 100 {
            let trace = PrefillTrace::dense(&layout, 2, Skipped::Off);
            prefill_flops(&ModelShape::default(), None, &layout, true, &trace);
            let mut forgetful = trace.clone();
            forgetful.evicted = Some(0..9);
            forgetful.layers[0].n_rows = 0;
            assert_eq!(forgetful.n_cells()[0], 0);
        }
    }
}

#[test]
fn models_of_no_size_and_of_every_size() {
    assert_eq!(encoder_flops(&VisionShape::default(), 0), 0);
    let huge = usize::MAX;
    let vision = VisionShape {
        n_layer: huge,
        n_embd: huge,
        n_ff: huge,
        n_ff_matrices: huge,
        patch_size: huge,
        n_patches_per_token: huge,
        n_extra_rows: huge,
        n_projector_weights: huge,
    };
    assert_eq!(encoder_flops(&vision, huge), u64::MAX);
    let shape = ModelShape {
        n_embd: huge,
        n_head: huge,
        n_head_kv: huge,
        n_embd_head_k: huge,
        n_embd_head_v: huge,
        n_ff: huge,
        n_vocab: huge,
        ..ModelShape::default()
    };
    let layout = PromptLayout {
        n_rows: 9,
        vision: vec![1..3, 4..6],
    };
    let mut trace = PrefillTrace::dense(&layout, 2, Skipped::Off);
    trace.layers[0].n_rows = huge;
    let flops = prefill_flops(&shape, Some(&vision), &layout, false, &trace);
    assert_eq!(flops.model.actual, u64::MAX);
    let bytes = KvBytes::of(huge, &[huge, huge], &[huge, 1]);
    assert_eq!(bytes.dense, u64::MAX);
    let rows = PromptLayout {
        n_rows: huge,
        vision: Vec::new(),
    };
    let trace = PrefillTrace {
        layers: trace.layers,
        ..PrefillTrace::dense(&PromptLayout::default(), 0, Skipped::Off)
    };
    prefill_flops(&ModelShape::default(), None, &rows, true, &trace);
    let layout = PromptLayout::default();
    let trace = PrefillTrace::dense(&layout, 0, Skipped::Off);
    let flops = prefill_flops(&ModelShape::default(), None, &layout, true, &trace);
    assert_eq!(flops.model.ratio(), None);
}
