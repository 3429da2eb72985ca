//! The literal implementation that the engine is compared with, against itself: another way to compute a
//! plain transformer, recomputing what decode takes from its cache, the closed form, and what the shallow
//! operators say.

#[path = "../common/mod.rs"]
mod common;
mod plain;
mod stages;

use common::random_model::{Arch, RandomLlm, RandomProjector};
use common::reference::{Input, KvPrecision, LayerRun, Reference, Rule, Run, argmax};
use common::rng::Rng;
use visipruner::gguf::{GgmlType, Gguf, LlmShape, ProjectorShape, check_pair};
use visipruner::policy::config::{
    ExitCount, Layer0, ShallowMask, Stages, TokensThresholdUnit, VisiPrunerConfig, VisualSelfAttention,
};
use visipruner::policy::fixed::Schedule;
use visipruner::policy::{PolicyConfig, ProbeReading, PromptLayout, VisionIndex};

/// A model on disk and what is computed from it.
struct Fixture {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    reference: Reference,
}

fn fixture(llm: &RandomLlm) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llm.gguf");
    llm.write(&path);
    Fixture {
        reference: Reference::load(&path),
        path,
        _folder: folder,
    }
}

fn gqa() -> RandomLlm {
    RandomLlm {
        n_layer: 6,
        ..RandomLlm::new(Arch::Llama, 1)
    }
}

fn mha() -> RandomLlm {
    RandomLlm {
        n_head_kv: 4,
        tied_output: true,
        ..gqa()
    }
}

/// Two images of 6 and 4 tokens, text before, between and after.
fn two_images() -> PromptLayout {
    PromptLayout {
        n_rows: 20,
        vision: vec![3..9, 11..15],
    }
}

fn prompt(reference: &Reference, layout: &PromptLayout, seed: u64) -> Vec<Input> {
    let mut rng = Rng::new(seed);
    let is_vision = |row: usize| layout.vision.iter().any(|span| span.contains(&row));
    let mut input = |row: usize| match row {
        0 => Input::Token(1),
        _ if is_vision(row) => Input::Embedding((0..reference.n_embd).map(|_| rng.normal()).collect()),
        _ => Input::Token(3 + rng.below(reference.n_vocab - 3)),
    };
    (0..layout.n_rows).map(&mut input).collect()
}

fn off() -> Rule {
    Rule::Policy(PolicyConfig::Off)
}

fn staged(config: VisiPrunerConfig) -> Rule {
    Rule::Policy(PolicyConfig::VisiPruner(config))
}

fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= tolerance, "element {i}: {x} {y}");
    }
}

#[test]
fn without_a_policy_it_is_a_plain_causal_transformer() {
    for llm in [gqa(), mha()] {
        let fixture = fixture(&llm);
        let layout = two_images();
        let prompt = prompt(&fixture.reference, &layout, 5);
        let run = fixture.reference.run(&prompt, &layout, &off());
        let mut plain = plain::Plain::load(&fixture.path);
        let rows: Vec<Vec<f64>> = prompt
            .iter()
            .enumerate()
            .map(|(pos, input)| plain.feed(input, pos))
            .collect();
        assert_close(&run.logits, rows.last().unwrap(), 1e-9);
        assert_eq!(run.n_cells(), vec![20; llm.n_layer]);

        let decoded = run.decode(4);
        for (i, &token) in decoded.tokens.iter().enumerate().take(3) {
            let logits = plain.feed(&Input::Token(token), 20 + i);
            assert_close(&decoded.logits[i + 1], &logits, 1e-9);
        }
    }
}

/// Vision that is gone from the first layer on leaves the text at its positions.
#[test]
fn a_masked_row_is_a_row_that_is_not_there() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 6);
    let run = fixture
        .reference
        .run(&prompt, &layout, &Rule::Present(vec![vec![]; 6]));
    let mut plain = plain::Plain::load(&fixture.path);
    let mut logits = Vec::new();
    for (pos, input) in prompt.iter().enumerate() {
        if matches!(input, Input::Token(_)) {
            logits = plain.feed(input, pos);
        }
    }
    assert_close(&run.logits, &logits, 1e-9);
    assert_eq!(run.n_cells(), [10; 6]);
}

/// Decode from what is left in the caches equals a prefill of the prompt with its continuation, in which the
/// same vision tokens are there.
#[test]
fn decode_equals_recomputing() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let mut prompt = prompt(&fixture.reference, &layout, 7);
    let all: Vec<usize> = (0..10).collect();
    let present = vec![all.clone(), all.clone(), all, vec![1, 4, 8], vec![1, 8], vec![]];
    let run = fixture
        .reference
        .run(&prompt, &layout, &Rule::Present(present.clone()));
    assert_eq!(run.n_cells(), [20, 20, 20, 13, 12, 10]);
    let decoded = run.decode(6);
    for i in 0..5 {
        prompt.push(Input::Token(decoded.tokens[i]));
        let longer = PromptLayout {
            n_rows: prompt.len(),
            ..layout.clone()
        };
        let again = fixture
            .reference
            .run(&prompt, &longer, &Rule::Present(present.clone()));
        assert_close(&decoded.logits[i + 1], &again.logits, 1e-9);
        assert_eq!(decoded.tokens[i + 1], argmax(&again.logits));
    }
}

#[test]
fn f16_cells_are_near_but_not_equal() {
    let mut fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 8);
    let exact = fixture.reference.run(&prompt, &layout, &off()).logits;
    fixture.reference.kv_precision = KvPrecision::F16;
    let rounded = fixture.reference.run(&prompt, &layout, &off()).logits;
    assert_ne!(exact, rounded);
    assert_close(&exact, &rounded, 0.02);
}

/// Cosine and norm by their definition equal what the crate's closed form makes of the probe's sums.
#[test]
fn the_closed_form_equals_the_definition() {
    for llm in [
        gqa(),
        mha(),
        RandomLlm {
            n_head: 8,
            n_head_kv: 1,
            ..gqa()
        },
    ] {
        let fixture = fixture(&llm);
        let layout = two_images();
        let prompt = prompt(&fixture.reference, &layout, 9);
        let run = fixture.reference.run(&prompt, &layout, &off());
        for layer in &run.layers {
            let reading = probe(&fixture.reference, layer, &layout);
            assert_close(&reading.cosines(), &layer.cos, 1e-12);
            assert_close(&reading.norms(), &layer.norm, 1e-12);
        }
    }
}

/// The sums as POLICY's closed form writes them: no `c_j` anywhere.
fn probe(reference: &Reference, layer: &LayerRun, layout: &PromptLayout) -> ProbeReading {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let value = |h: usize, j: usize| &layer.cells[j].as_ref().unwrap().v[reference.kv_head(h)];
    let heads = 0..reference.n_head;
    let output = |h: usize| -> Vec<f64> {
        let mut o = vec![0.0; reference.n_embd_head];
        for (j, a) in layer.weights[h].iter().enumerate() {
            o.iter_mut().zip(value(h, j)).for_each(|(o, v)| *o += a * v);
        }
        o
    };
    let outputs: Vec<Vec<f64>> = heads.clone().map(output).collect();
    let rows = layout.vision_rows();
    let row = |token: usize| rows[token].0 as usize;
    let norm2 = |j: usize| {
        heads
            .clone()
            .map(|h| layer.weights[h][j].powi(2) * dot(value(h, j), value(h, j)))
            .sum()
    };
    let dots = |j: usize| {
        heads
            .clone()
            .map(|h| layer.weights[h][j] * dot(&outputs[h], value(h, j)))
            .sum()
    };
    ProbeReading {
        tokens: layer
            .tokens
            .iter()
            .map(|&token| VisionIndex(token as u32))
            .collect(),
        norm2: layer.tokens.iter().map(|&token| norm2(row(token))).collect(),
        dot: layer.tokens.iter().map(|&token| dots(row(token))).collect(),
        output_norm2: outputs.iter().map(|o| dot(o, o)).sum(),
    }
}

#[test]
fn random_models_have_the_shapes_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for arch in Arch::ALL {
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0] {
            let llm = RandomLlm {
                ty,
                ..RandomLlm::new(arch, 3)
            };
            let path = folder.path().join("llm.gguf");
            llm.write(&path);
            let gguf = Gguf::open(&path).unwrap();
            let shape = LlmShape::from_gguf(&gguf).unwrap();
            assert_eq!(shape.arch, arch.name());
            assert_eq!((shape.n_layer, shape.n_embd, shape.head_dim_k), (8, 128, 32));
            assert_eq!((shape.n_head[0], shape.n_head_kv[0], shape.n_ff[0]), (4, 2, 192));
            assert_eq!(
                gguf.tensor("blk.7.attn_k.bias").is_some(),
                matches!(arch, Arch::Qwen2 | Arch::Qwen2Vl)
            );

            let projector = RandomProjector {
                ty,
                ..RandomProjector::new(4, llm.n_embd())
            };
            let path = folder.path().join("mmproj.gguf");
            projector.write(&path);
            let mmproj = Gguf::open(&path).unwrap();
            let projector_shape = ProjectorShape::from_gguf(&mmproj).unwrap();
            assert_eq!(projector_shape.n_tokens_per_image, Some(16));
            assert!(projector_shape.has_class_embedding);
            check_pair((&gguf, &shape), (&mmproj, &projector_shape)).unwrap();
        }
    }
}

/// The same seed gives the same file, another one does not; what a tensor holds does not depend on the
/// others.
#[test]
fn random_models_are_reproducible() {
    let folder = tempfile::tempdir().unwrap();
    let write = |llm: RandomLlm| {
        let path = folder.path().join("llm.gguf");
        llm.write(&path);
        (
            std::fs::read(&path).unwrap(),
            Gguf::open(&path)
                .unwrap()
                .read_tensor_f32("blk.1.attn_q.weight")
                .unwrap(),
        )
    };
    let first = write(gqa());
    assert_eq!(first, write(gqa()));
    assert_ne!(first.1, write(RandomLlm { seed: 2, ..gqa() }).1);
    let shorter = write(RandomLlm { n_layer: 2, ..gqa() });
    assert_eq!(first.1, shorter.1);
}
