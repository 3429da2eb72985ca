//! What a policy does to rows and cells.

use super::common::policies::{PROBING, SEARCHING, SEARCHING_IN_STAGES, policy};
use super::*;
use visipruner::report::LayerReport;

#[test]
fn a_policy_that_keeps_everything_changes_nothing() {
    for arch in Arch::ALL {
        let mut pair = Pair::new(arch);
        let dense = pair
            .session(SessionOptions::default())
            .answer(&mut pair.projector);
        // No layer fires, so every row goes through every range.
        let config = VisiPrunerConfig {
            shallow_mid_layer: 1,
            layer_threshold: -1.0,
            ..VisiPrunerConfig::default()
        };
        let options = with_policy(PolicyConfig::VisiPruner(config));
        let staged = pair.session(options).answer(&mut pair.projector);
        let report = &staged.report;
        assert!(
            report
                .skipped
                .as_ref()
                .is_some_and(|why| why.contains("layer_threshold")),
            "{:?}",
            report.skipped
        );
        assert!(report.layers.iter().all(|layer| layer.rows == report.n_tokens));
        assert!(
            report.layers[2..]
                .iter()
                .all(|layer| layer.cos.as_ref().is_some_and(|cos| cos.len() == 16))
        );
        assert_eq!(staged.tokens, dense.tokens, "{arch:?}");
        let (staged, dense) = (
            report.logits.as_ref().unwrap(),
            dense.report.logits.as_ref().unwrap(),
        );
        let largest = staged
            .iter()
            .zip(dense)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        // Stock decodes text and image in batches of their own, which changes the order of sums.
        assert!(largest < 2e-3, "{arch:?}: logits differ by {largest}");
    }
}

#[test]
fn what_drops_nothing_computes_as_dense_staged_to_the_bit() {
    for arch in Arch::ALL {
        let mut pair = Pair::new(arch);
        let mut logits = |policy| {
            let outcome = pair.session(with_policy(policy)).answer(&mut pair.projector);
            let report = outcome.report;
            assert!(report.layers.iter().all(|layer| layer.rows == report.n_tokens));
            (report.logits.expect("logits"), report.skipped.expect("a reason"))
        };
        let (staged, reason) = logits(PolicyConfig::DenseStaged(DenseStaged::default()));
        assert_eq!(reason, "the policy drops nothing");
        // 16 vision tokens, all of which are kept to the last of 8 layers
        assert_eq!(logits(fixed(2, 16, 8)).0, staged, "{arch:?}");
    }
}

#[test]
fn a_fixed_schedule_drops_what_it_says() {
    let mut pair = Pair::new(Arch::Llama);
    let options = with_policy(fixed(2, 4, 5));
    let mut session = pair.session(options);
    let outcome = session.answer(&mut pair.projector);
    let report = &outcome.report;
    let n_text = report.n_tokens - 16;
    let expected = [[16; 3].as_slice(), [4; 2].as_slice(), [0; 3].as_slice()].concat();
    let vision: Vec<usize> = report.layers.iter().map(|layer| layer.rows - n_text).collect();
    assert_eq!(vision, expected);
    assert!(report.layers.iter().all(|layer| layer.kv == layer.rows));
    let kv_final: Vec<usize> = report.layers.iter().map(|layer| layer.rows + 11).collect();
    assert_eq!(report.kv_final, kv_final);
    assert_eq!((report.fusion_layer, report.exit_from), (Some(2), Some(5)));
    assert_eq!(report.kept.as_ref().map(Vec::len), Some(4));
    assert!(report.kv_bytes.actual < report.kv_bytes.dense);
    assert!(report.flops.model.actual < report.flops.model.dense);
    assert_eq!(report.skipped, None);
}

#[test]
fn shallow_vision_is_forgotten_after_the_prefill() {
    for arch in [Arch::Llama, Arch::Qwen2Vl] {
        let mut pair = Pair::new(arch);
        let config = VisiPrunerConfig {
            shallow_mid_layer: 3,
            evict_shallow_kv: true,
            layer_threshold: -1.0,
            ..VisiPrunerConfig::default()
        };
        let options = with_policy(PolicyConfig::VisiPruner(config));
        let request = Request {
            images: vec![picture(9, 9, 1), picture(9, 9, 2)],
            ..Request {
                prompt: marked("A <image> B <image> C"),
                ..question()
            }
        };
        let outcome = pair
            .session(options)
            .generate(Some(&mut pair.projector), &request, ignore)
            .expect("an answer");
        let report = &outcome.report;
        let n_vision: usize = report.image_spans.iter().map(|span| span[1]).sum();
        for layer in &report.layers {
            assert_eq!(layer.rows, report.n_tokens);
            let n_forgotten = if layer.layer < 3 { n_vision } else { 0 };
            assert_eq!(
                layer.kv,
                report.n_tokens - n_forgotten,
                "{arch:?}, layer {}",
                layer.layer
            );
        }
    }
}

#[test]
fn caches_are_as_small_as_what_they_hold() {
    let mut pair = Pair::new(Arch::Llama);
    let with_room = |policy| SessionOptions {
        n_ctx: Some(1024),
        ..with_policy(policy)
    };
    let dense = pair
        .session(with_room(PolicyConfig::Off))
        .answer(&mut pair.projector);
    let mut session = pair.session(with_room(fixed(2, 4, 5)));
    let few = session.answer(&mut pair.projector);
    // llama.cpp's own memory holds the whole context from the beginning, ours grows by 256 cells at a time
    let allocated = |outcome: &Outcome| outcome.report.kv_allocated_bytes;
    assert_eq!(allocated(&few) * 1024, allocated(&dense) * 256);

    // 320 vision tokens, which 3 layers of 8 hold
    let many = Request {
        images: (0..20).map(|seed| picture(20, 20, seed + 1)).collect(),
        prompt: marked(&format!("{} What are these?", "<image>".repeat(20))),
        ..question()
    };
    let outcome = session
        .generate(Some(&mut pair.projector), &many, ignore)
        .expect("an answer");
    assert_eq!(
        allocated(&outcome) * 8 * 1024,
        allocated(&dense) * (3 * 512 + 5 * 256)
    );

    // The answer needs room in every layer, and the next request finds what it needs.
    let long = Request {
        n_predict: 400,
        ignore_eos: true,
        ..question()
    };
    let outcome = session
        .generate(Some(&mut pair.projector), &long, ignore)
        .expect("an answer");
    assert_eq!(outcome.tokens.len(), 400);
    let again = session.answer(&mut pair.projector);
    assert_eq!(again.tokens, few.tokens);
}

/// Layers that are run ahead of decisions are run once more where these drop rows: the answer is the same to the bit, whatever
/// had been asked about the picture before, in fewer calls.
#[test]
fn layers_run_ahead_change_no_answer() {
    for arch in [Arch::Llama, Arch::Gemma3, Arch::Qwen2Vl] {
        let mut pair = Pair::of_kind(arch);
        for toml in [SEARCHING, SEARCHING_IN_STAGES, PROBING] {
            for n_batch in [2048, 24] {
                let options = |probe_stride: u32| SessionOptions {
                    probe_stride: Some(probe_stride),
                    n_batch,
                    n_ubatch: n_batch.min(512),
                    ..with_policy(policy(toml))
                };
                let (one_by_one, n_calls) = two_answers(&mut pair, options(1));
                for stride in [2, 3, 8] {
                    let what = format!("{arch:?}, {toml}, stride {stride}, batches of {n_batch}");
                    let (ahead, n_calls_ahead) = two_answers(&mut pair, options(stride));
                    assert!(ahead == one_by_one, "{what}");
                    assert!(
                        n_calls_ahead < n_calls || toml != PROBING,
                        "{what}: {n_calls_ahead} calls instead of {n_calls}"
                    );
                }
            }
        }
    }
}

type Answered = (Vec<i32>, Vec<u32>, Vec<LayerReport>, Option<Vec<u32>>);

/// Two questions about a picture, and the calls of the engine that read their prompts.
fn two_answers(pair: &mut Pair, options: SessionOptions) -> ([Answered; 2], usize) {
    let mut session = pair.session(options);
    let mut n_calls = 0;
    let answers = ["It is", "Where is it? It is"].map(|text| {
        let request = Request {
            prompt: marked(&format!("Look at this: <image> {text}")),
            ..question()
        };
        let count = |event: Event<'_>| {
            n_calls += usize::from(matches!(event, Event::Prefill(_)));
            Continue(())
        };
        let outcome = session
            .generate(Some(&mut pair.projector), &request, count)
            .expect("an answer");
        let logits = outcome.report.logits.iter().flatten();
        let bits = logits.map(|x| x.to_bits()).collect();
        (outcome.tokens, bits, outcome.report.layers, outcome.report.kept)
    });
    (answers, n_calls)
}
