//! The JSON of a report: its exact form, and that one follows from a prefill.

mod schema;

use std::time::Duration;

use super::*;
use crate::policy::config::VisiPrunerConfig;
use crate::policy::trace::ProbeTrace;
use crate::policy::{AttentionReading, Row, Skipped, TextToVision, VisionIndex, VisionToVision};

/// Ten layers: twelve rows with the shallow stage in layer 0, fusion in layer 4 keeps two of seven vision tokens, exit
/// in layer 6.
fn trace() -> PrefillTrace {
    let kept = vec![VisionIndex(1), VisionIndex(5)];
    let layer = |il: usize| {
        let (vision, stage) = match il {
            0 => ((0..7).map(VisionIndex).collect(), Stage::Shallow),
            1 | 2 => ((0..7).map(VisionIndex).collect(), Stage::Dense),
            3 | 4 => ((0..7).map(VisionIndex).collect(), Stage::Middle),
            5 | 6 => (kept.clone(), Stage::Deep),
            _ => (Vec::new(), Stage::Text),
        };
        let merged = VisionAttention {
            text_to_vision: TextToVision::MergeOntoFirst,
            vision_to_vision: VisionToVision::Zero,
        };
        LayerTrace {
            n_rows: 5 + vision.len(),
            stage,
            attention: if il == 0 {
                merged
            } else {
                VisionAttention::default()
            },
            probe: matches!(il, 3..=6).then(|| ProbeTrace {
                cos: vec![0.75; vision.len()],
                norm: vec![0.5; vision.len()],
                tokens: vision.clone(),
                output_norm: 2.0,
            }),
            weights: None,
            resident: Vec::new(),
            vision,
        }
    };
    PrefillTrace {
        layers: (0..10).map(layer).collect(),
        entered: None,
        drops: vec![
            Drop {
                after: Some(4),
                kept: kept.clone(),
                kept_rows: vec![Row(3), Row(9)],
            },
            Drop {
                after: Some(6),
                kept: Vec::new(),
                kept_rows: Vec::new(),
            },
        ],
        fusion_layer: Some(4),
        kept_rows: Some(vec![Row(3), Row(9)]),
        kept: Some(kept),
        exit_layer: Some(6),
        evicted: Some(0..1),
        replayed: None,
        skipped: None,
        n_calls: 7,
        n_in_vain: 0,
        policy_time: Duration::from_micros(250),
    }
}

fn layout() -> PromptLayout {
    PromptLayout {
        n_rows: 12,
        vision: vec![2..6, 8..11],
    }
}

fn of_prefill(with_probes: bool) -> RunReport {
    let trace = trace();
    RunReport::of_prefill(
        &layout(),
        &[1, 5, 0, 0, 0, 0, 9, 9, 0, 0, 0, 3],
        &trace,
        &trace.n_cells(),
        with_probes,
    )
}

/// Some tokens entered, and layer 3 ranked them by attention.
fn ranked() -> RunReport {
    let mut trace = trace();
    trace.entered = Some(vec![VisionIndex(1), VisionIndex(5), VisionIndex(6)]);
    trace.layers[3].probe = None;
    trace.layers[3].weights = Some(AttentionReading {
        tokens: trace.entered.clone().unwrap(),
        weight: vec![0.5, 0.25, 0.0],
    });
    RunReport::of_prefill(&layout(), &[7; 12], &trace, &trace.n_cells(), true)
}

#[test]
fn rankings_and_what_entered_are_reported() {
    let report = ranked();
    assert_eq!(report.entered, Some(vec![1, 5, 6]));
    let layer = &report.layers[3];
    assert_eq!(
        (layer.probe, layer.attention.as_deref(), &layer.cos),
        (Some(ProbeKind::Rank), Some(&[0.5, 0.25, 0.0][..]), &None)
    );
    assert_eq!(report.layers[4].probe, Some(ProbeKind::Middle));
    let vision: Vec<_> = report.layers[4..8]
        .iter()
        .map(|layer| layer.vision.as_deref())
        .collect();
    let (all, kept): (&[u32], &[u32]) = (&[0, 1, 2, 3, 4, 5, 6], &[1, 5]);
    assert_eq!(vision, [Some(all), Some(kept), Some(kept), Some(&[])]);
    let json: serde_json::Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    assert_eq!(
        (&json["layers"][3]["probe"], &json["layers"][3]["attention"][1]),
        (&"rank".into(), &0.25.into())
    );
    let mut trace = trace();
    trace.layers[3].probe = None;
    trace.layers[3].weights = Some(AttentionReading {
        tokens: Vec::new(),
        weight: vec![0.5],
    });
    let without = RunReport::of_prefill(&layout(), &[7; 12], &trace, &trace.n_cells(), false);
    assert_eq!(
        (
            without.layers[3].probe,
            &without.layers[3].attention,
            &without.layers[3].vision
        ),
        (Some(ProbeKind::Rank), &None, &None)
    );
}

/// A report with every key.
pub(super) fn sample() -> RunReport {
    RunReport {
        model: String::from("tiny.gguf"),
        mmproj: Some(String::from("mmproj.gguf")),
        kv_final: vec![7, 14, 14, 14, 14, 9, 9, 7, 7, 7],
        logits: Some(vec![0.5, -1.25]),
        generated: vec![42, 43],
        text: String::from("a red ball"),
        policy: PolicyConfig::VisiPruner(VisiPrunerConfig::default()),
        preset: Some(String::from("llava-1.5-7b")),
        flops: FlopsReport {
            paper: DenseActual {
                dense: 1000,
                actual: 500,
            }
            .into(),
            model: DenseActual {
                dense: 4000,
                actual: 3000,
            }
            .into(),
            vision_attention: DenseActual {
                dense: 800,
                actual: 200,
            }
            .into(),
            computed: 0,
        },
        kv_bytes: KvBytes {
            dense: 61440,
            actual: 46080,
        },
        compute: ComputeReport {
            fallbacks: vec![Fallback {
                op: String::from("FLASH_ATTN_EXT"),
                device: String::from("CPU"),
                n: 12,
            }],
        },
        times_ms: TimesMs {
            load: 812.5,
            encode: 95.25,
            prefill: 620.5,
            policy: 0.25,
            decode: 410.0,
            total: 1940.0,
        },
        tokens_per_second: Some(4.875),
        warnings: vec![String::from("the KV cache is quantized")],
        ..of_prefill(true)
    }
}

#[test]
fn json_has_exactly_these_keys() {
    insta::assert_json_snapshot!(sample());
}

#[test]
fn optional_keys_are_left_out_and_unknown_values_are_null() {
    let json = serde_json::to_value(of_prefill(false)).unwrap();
    assert!(json.get("logits").is_none() && json["layers"][3].get("cos").is_none());
    assert!(
        json["tokens_per_second"].is_null()
            && json["skipped"].is_null()
            && json["layers"][3]["shallow"].is_null()
    );
    assert_eq!(json["layers"][3]["probe"], "middle");
    assert_eq!(json["layers"][5]["probe"], "deep");
    assert!(json["layers"][7]["probe"].is_null());
}

#[test]
fn a_report_follows_from_a_prefill() {
    let report = of_prefill(true);
    assert_eq!(report.token_ids, [1, 5, -1, -1, -1, -1, 9, 9, -1, -1, -1, 3]);
    assert_eq!(report.image_spans, [[2, 4], [8, 3]]);
    assert_eq!((report.prune_from, report.exit_from), (Some(5), Some(7)));
    assert_eq!(
        (report.kept.as_deref(), report.kept_pos.as_deref()),
        (Some(&[1, 5][..]), Some(&[3, 9][..]))
    );
    let drop = |layer: usize, kept: &[u32], kept_pos: &[u32]| DropReport {
        layer: Some(layer),
        n_kept: kept.len(),
        kept: kept.to_vec(),
        kept_pos: kept_pos.to_vec(),
    };
    assert_eq!(report.drops, [drop(4, &[1, 5], &[3, 9]), drop(6, &[], &[])]);
    assert_eq!(
        report.layers.iter().map(|layer| layer.kv).collect::<Vec<_>>(),
        [5, 12, 12, 12, 12, 7, 7, 5, 5, 5]
    );
    assert_eq!(report.layers[5].norm.as_ref().map(Vec::len), Some(2));
}

#[test]
fn a_prefill_without_pruning_says_why() {
    let layout = layout();
    let trace = PrefillTrace::dense(
        &layout,
        3,
        Skipped::UnsupportedArch {
            arch: String::from("mamba"),
        },
    );
    let report = RunReport::of_prefill(&layout, &[7; 12], &trace, &trace.n_cells(), true);
    assert_eq!(
        report.skipped.as_deref(),
        Some(
            "the architecture \"mamba\" cannot be pruned between layers, and no policy that acts before them was asked for, \
             so the model ran dense"
        )
    );
    assert_eq!((report.chosen(), report.drops.len()), (None, 0));
    assert_eq!(
        (report.fusion_layer, report.kept, report.exit_from),
        (None, None, None)
    );
    assert!(
        report
            .layers
            .iter()
            .all(|layer| (layer.rows, layer.kv, layer.probe) == (12, 12, None))
    );
}

#[test]
fn what_was_chosen_is_after_fusion_else_after_the_first_drop_in_the_model() {
    let drop = |layer: Option<usize>, kept: &[u32]| DropReport {
        layer,
        n_kept: kept.len(),
        kept: kept.to_vec(),
        kept_pos: Vec::new(),
    };
    let mut report = RunReport {
        drops: vec![
            drop(None, &[1, 2, 5]),
            drop(Some(3), &[1, 2]),
            drop(Some(5), &[2]),
        ],
        ..RunReport::default()
    };
    assert_eq!(
        (report.chosen(), report.chosen_after()),
        (Some(&[1, 2][..]), Some(3))
    );
    report.kept = Some(vec![2]);
    assert_eq!(report.chosen(), Some(&[2][..]));
    report.kept = None;
    report.drops.truncate(1);
    assert_eq!(
        (report.chosen(), report.chosen_after()),
        (Some(&[1, 2, 5][..]), None)
    );
}

#[test]
fn json_reads_back() {
    let report = sample();
    assert_eq!(
        serde_json::from_str::<RunReport>(&report.to_json().unwrap()).unwrap(),
        report
    );
}
