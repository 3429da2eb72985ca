//! The crate's policies and its staged prefill against the literal implementation of the method: the prefill
//! runs on an engine in double precision that really drops rows, so that nothing but the method itself can
//! make a difference.

// A layout with one image is a list of one range.
#![allow(clippy::single_range_in_vec_init)]

#[path = "../common/mod.rs"]
mod common;
mod policies;

use common::cases::{Case, Expected, Subject};
use common::dropping::Dropping;
use common::random_model::{Arch, RandomLlm};
use common::reference::{Input, Reference, Rule, Run};
use common::rng::Rng;
use visipruner::engine::prefill::{PrefillParams, Shared, prefill};
use visipruner::policy::trace::PrefillTrace;
use visipruner::policy::{PromptLayout, VisionIndex};

fn reference(llm: &RandomLlm) -> Reference {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llm.gguf");
    llm.write(&path);
    Reference::load(&path)
}

fn gqa(seed: u64) -> RandomLlm {
    RandomLlm {
        n_head: 4,
        n_head_kv: 2,
        n_embd_head: 16,
        n_ff: 96,
        ..RandomLlm::new(Arch::Llama, seed)
    }
}

fn prompt(reference: &Reference, layout: &PromptLayout, seed: u64) -> Vec<Input> {
    let mut rng = Rng::new(seed);
    let is_vision = |row: usize| layout.vision.iter().any(|span| span.contains(&row));
    let mut input = |row: usize| match is_vision(row) {
        true => Input::Embedding((0..reference.n_embd).map(|_| rng.normal()).collect()),
        false => Input::Token(3 + rng.below(reference.n_vocab - 3)),
    };
    (0..layout.n_rows).map(&mut input).collect()
}

/// Runs a case on the engine that drops rows.
fn run<'a>(subject: &Subject<'a>, case: &Case, max_rows_per_call: usize) -> (PrefillTrace, Dropping<'a>) {
    let n_layer = subject.reference.n_layer;
    let mut policy = case.policy.build(n_layer, subject.layout).unwrap();
    let cuts = case.policy.cuts(n_layer);
    let params = PrefillParams {
        layout: subject.layout,
        n_layer,
        cuts: &cuts,
        max_rows_per_call,
        max_rows_per_attention_probe: max_rows_per_call,
        probe_stride: 1,
        causal_images: true,
        embeddings: None,
        shared: Shared::default(),
    };
    let mut engine = Dropping::new(subject.reference, subject.prompt);
    let trace = prefill(&mut engine, &params, policy.as_mut()).unwrap();
    (trace, engine)
}

/// The probe's sums are single precision; decisions nearer to a threshold than this are left out of the
/// comparison.
const MARGIN: f64 = 1e-4;

fn compare(subject: &Subject, case: &Case, max_rows_per_call: usize) {
    let expected = subject
        .reference
        .run(subject.prompt, subject.layout, &Rule::Policy(case.policy.clone()));
    let happened = Expected {
        fusion: expected.fusion_layer.is_some(),
        exit: expected.exit_layer.is_some(),
    };
    assert_eq!(happened, case.expected, "{}", case.name);
    assert!(
        expected.margin > MARGIN,
        "{}: margin {}",
        case.name,
        expected.margin
    );

    let (trace, engine) = run(subject, case, max_rows_per_call);
    let name = &case.name;
    assert_eq!(trace.fusion_layer, expected.fusion_layer, "{name}");
    assert_eq!(trace.exit_layer, expected.exit_layer, "{name}");
    assert_eq!(trace.prune_from(), expected.prune_from(), "{name}");
    let kept = trace.kept.as_ref().map(|kept| indices(kept));
    assert_eq!(kept, expected.kept, "{name}");
    for (il, (layer, expected)) in trace.layers.iter().zip(&expected.layers).enumerate() {
        assert_eq!(layer.n_rows, expected.n_rows, "{name}, layer {il}");
        assert_eq!(indices(&layer.vision), expected.tokens, "{name}, layer {il}");
        if let Some(probe) = &layer.probe {
            assert_near(&probe.cos, &expected.cos, 1e-5, name);
            assert_near(&probe.norm, &expected.norm, 1e-5, name);
        }
    }
    assert_near(&engine.logits(), &expected.logits, 1e-9, name);
    compare_cells(&engine, &expected, name);
}

/// What decode will see is the same.
fn compare_cells(engine: &Dropping, expected: &Run, name: &str) {
    for (il, layer) in expected.layers.iter().enumerate() {
        let cells: Vec<_> = layer
            .cells
            .iter()
            .enumerate()
            .filter_map(|(row, cell)| Some((row, cell.as_ref()?)))
            .collect();
        let rows: Vec<usize> = cells.iter().map(|(row, _)| *row).collect();
        assert_eq!(
            engine.cells[il].keys().copied().collect::<Vec<_>>(),
            rows,
            "{name}, layer {il}"
        );
        for (row, cell) in cells {
            assert_near(&engine.cells[il][&row].k.concat(), &cell.k.concat(), 1e-9, name);
            assert_near(&engine.cells[il][&row].v.concat(), &cell.v.concat(), 1e-9, name);
        }
    }
}

fn indices(tokens: &[VisionIndex]) -> Vec<usize> {
    tokens.iter().map(|token| token.0 as usize).collect()
}

fn assert_near(a: &[f64], b: &[f64], tolerance: f64, name: &str) {
    assert_eq!(a.len(), b.len(), "{name}");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= tolerance, "{name}, element {i}: {x} {y}");
    }
}

fn with_subject(llm: &RandomLlm, layout: PromptLayout, check: impl Fn(&Subject)) {
    let reference = reference(llm);
    let prompt = prompt(&reference, &layout, llm.seed + 1000);
    check(&Subject {
        reference: &reference,
        prompt: &prompt,
        layout: &layout,
        shallow_mid_layer: 2,
        n_keep: 4,
    });
}

fn one_image() -> PromptLayout {
    PromptLayout {
        n_rows: 24,
        vision: vec![3..15],
    }
}

fn two_images() -> PromptLayout {
    PromptLayout {
        n_rows: 26,
        vision: vec![2..9, 12..18],
    }
}

#[test]
fn every_combination_of_stages() {
    for seed in 1..=3 {
        with_subject(&gqa(seed), one_image(), |subject| {
            let cases = subject.every_combination();
            assert_eq!(cases.len(), 3 + 12 * 4);
            cases.iter().for_each(|case| compare(subject, case, 512));
        });
    }
}

#[test]
fn every_combination_with_several_images() {
    with_subject(&gqa(4), two_images(), |subject| {
        subject
            .every_combination()
            .iter()
            .for_each(|case| compare(subject, case, 512));
    });
}

/// An image that begins the prompt has no text to fall back on when it may not see itself; images may follow
/// each other.
#[test]
fn images_without_text_before_or_between() {
    with_subject(
        &gqa(5),
        PromptLayout {
            n_rows: 20,
            vision: vec![0..6, 6..12],
        },
        |subject| {
            subject
                .every_combination()
                .iter()
                .for_each(|case| compare(subject, case, 512));
        },
    );
}

#[test]
fn edges() {
    for (seed, layout) in [(6, one_image()), (7, two_images())] {
        with_subject(&gqa(seed), layout, |subject| {
            subject
                .edges()
                .iter()
                .for_each(|case| compare(subject, case, 512));
        });
    }
}

/// Calls of few rows: no group of rows fits into one.
#[test]
fn small_batches() {
    with_subject(&gqa(8), two_images(), |subject| {
        for case in subject.every_combination().iter().chain(&subject.edges()) {
            compare(subject, case, 4);
        }
    });
}
