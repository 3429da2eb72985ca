//! Rows that a policy drops before layer 0 in llama.cpp's own memory: as if the prompt had never had them.

use std::ops::ControlFlow::Continue;
use std::ops::Range;

use super::*;
use crate::engine::options::{FlashAttention, ModelOptions};
use crate::engine::prompt::{MediaKind, MediaSpan};
use crate::ffi::tests::common::random_model::{Arch, RandomLlm};
use crate::ffi::tests::common::rng::Rng;
use crate::policy::{PolicyConfig, PolicyOverrides, Row};

const BEFORE: usize = 5;
const GRID: usize = 5;
const N_VISION: usize = GRID * GRID;
/// Two pictures with text around them.
const SPANS: [Range<usize>; 2] = [
    BEFORE..BEFORE + N_VISION,
    BEFORE + N_VISION + 3..BEFORE + 2 * N_VISION + 3,
];
const N_ROWS: usize = SPANS[1].end + 6;

fn load(arch: Arch) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    RandomLlm::new(arch, 31).write(&path);
    Model::load(&path, &ModelOptions::default(), |_| Continue(())).unwrap()
}

/// The prompt of some rows of a longer one, which they are in: with M-RoPE a picture is a grid at one time.
fn prompt(model: &Model, rows: &[usize]) -> EncodedPrompt {
    let mut rng = Rng::new(4);
    let n_embd = model.native().n_embd_inp();
    let n_pos = model.native().n_pos_per_embd();
    let mut prompt = EncodedPrompt::new(n_pos, false);
    let mut time = 0;
    for row in 0..N_ROWS {
        let token = 3 + rng.below(model.n_vocab() - 3) as i32;
        let embd: Vec<f32> = (0..n_embd).map(|_| 0.5 * rng.normal() as f32).collect();
        let image = SPANS.iter().position(|span| span.contains(&row));
        let in_image = image.map(|image| row - SPANS[image].start);
        let pos = match in_image {
            Some(i) if n_pos > 1 => [time, time + (i / GRID) as i32, time + (i % GRID) as i32, 0],
            _ => [time, time, time, 0],
        };
        time += match in_image {
            Some(i) if n_pos > 1 => (i + 1 == N_VISION) as i32 * GRID as i32,
            _ => 1,
        };
        if !rows.contains(&row) {
            continue;
        }
        let at = prompt.token.len();
        prompt.token.push(if image.is_some() { -1 } else { token });
        prompt.pos.extend(&pos[..n_pos]);
        if let Some(image) = image {
            prompt.embd.extend(embd);
            push_to_span(&mut prompt, image, at);
        }
    }
    prompt.layout.n_rows = prompt.token.len();
    prompt.next_pos = time;
    prompt.end_turn(None);
    prompt.model = Some(model.downgrade());
    prompt
}

fn push_to_span(prompt: &mut EncodedPrompt, image: usize, row: usize) {
    if prompt.media.last().is_none_or(|media| media.item != image) {
        prompt.layout.vision.push(row..row);
        prompt.media.push(MediaSpan {
            covers: None,
            rows: row..row,
            item: image,
            tile: 0,
            kind: MediaKind::Image,
            grid: None,
            hash: image as u64,
        });
    }
    let (layout, media) = (prompt.layout.vision.last_mut(), prompt.media.last_mut());
    layout.unwrap().end = row + 1;
    media.unwrap().rows.end = row + 1;
}

fn policy(toml: &str) -> PolicyConfig {
    let fields = PolicyOverrides::from_toml(toml).unwrap();
    fields.apply(&PolicyConfig::Off).unwrap()
}

fn cache(model: &Model) -> Cache {
    let options = SessionOptions {
        n_threads: Some(1),
        n_ctx: Some(256),
        type_k: KvType::F32,
        type_v: KvType::F32,
        flash_attn: FlashAttention::Off,
        n_batch: 16,
        ..SessionOptions::default()
    };
    Cache::new(model, &options).unwrap()
}

/// The logits of the next token and of the one after it, and what was done.
fn read(
    cache: &mut Cache,
    prompt: &EncodedPrompt,
    policy: Option<&PolicyConfig>,
) -> (Vec<f32>, Vec<f32>, Read) {
    let policy = policy.map(|policy| policy as &dyn Policy);
    cache.fit(prompt, 8).unwrap();
    if let Some(policy) = policy {
        cache.check_cuts(policy).unwrap();
    }
    let nobody = CancelHandle::default();
    let read = cache
        .read(prompt, policy, 8, &nobody, &mut |_, _| Continue(()))
        .unwrap()
        .unwrap();
    let first = cache.context().unwrap().logits(None).unwrap().to_vec();
    let token = ffi::Token {
        sequence: read.turn.sequence(),
        token: 7,
        pos: prompt.next_pos,
    };
    cache.decoder().unwrap().decode(&[token], &nobody).unwrap();
    let second = cache.context().unwrap().logits(None).unwrap().to_vec();
    (first, second, read)
}

#[test]
fn dropped_rows_were_never_there() {
    let policies = [
        "policy = 'divprune'\nbudget = 9",
        "policy = 'random'\nbudget = '30%'\npolicy_seed = 5",
        "policy = 'uniform'\nbudget = 3",
    ];
    for arch in Arch::ALL.into_iter().chain([Arch::Lfm2]) {
        let model = load(arch);
        let whole = prompt(&model, &(0..N_ROWS).collect::<Vec<_>>());
        let (dense, ..) = read(&mut cache(&model), &whole, None);
        for toml in policies {
            let what = format!("{arch:?}, {toml}");
            let mut cache_of_whole = cache(&model);
            assert_eq!(cache_of_whole.cuts, None, "{what}");
            let (first, second, done) = read(&mut cache_of_whole, &whole, Some(&policy(toml)));
            let [drop] = &done.trace.drops[..] else {
                panic!("{what}: {:?}", done.trace.drops)
            };
            let is_kept = |row: &usize| whole.token[*row] != -1 || drop.kept_rows.contains(&Row(*row as u32));
            let kept: Vec<usize> = (0..N_ROWS).filter(is_kept).collect();
            assert!(drop.after.is_none() && kept.len() < N_ROWS, "{what}");
            assert!(done.trace.layers.iter().all(|layer| layer.n_rows == kept.len()));

            let fewer = prompt(&model, &kept);
            let (expected, then_expected, _) = read(&mut cache(&model), &fewer, None);
            assert_close(&first, &expected, &what);
            assert_close(&second, &then_expected, &what);
            assert!(
                max_difference(&first, &dense) > 0.05,
                "{what}: dropping rows changed nothing"
            );
        }
    }
}

/// Batches begin elsewhere, which changes the order of sums.
fn assert_close(a: &[f32], b: &[f32], what: &str) {
    let difference = max_difference(a, b);
    assert!(difference < 1e-4, "{what}: {difference}");
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
