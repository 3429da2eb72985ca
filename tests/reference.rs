//! The literal implementation that the engine is compared with, against itself: another way to compute a
//! plain transformer, recomputing what decode takes from its cache, the closed form, and what the shallow
//! operators say.

mod common;

use std::path::Path;

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

/// A plain causal transformer, written differently: row by row through all layers, softmax in one pass over
/// the keys, RoPE as a product of complex numbers, every matrix entry looked up where it is needed.
mod plain {
    use super::*;

    pub struct Plain {
        gguf: Gguf,
        shape: LlmShape,
        /// `[n_layer]`: key and value of every row so far.
        cache: Vec<Vec<KeyAndValue>>,
    }

    type KeyAndValue = (Vec<f64>, Vec<f64>);

    impl Plain {
        pub fn load(path: &Path) -> Plain {
            let gguf = Gguf::open(path).unwrap();
            let shape = LlmShape::from_gguf(&gguf).unwrap();
            let cache = vec![Vec::new(); shape.n_layer as usize];
            Plain { gguf, shape, cache }
        }

        fn product(&self, name: &str, x: &[f64]) -> Vec<f64> {
            let w = self.gguf.read_tensor_f32(name).unwrap();
            let n_out = w.len() / x.len();
            let mut y = vec![0.0; n_out];
            for (i, x) in x.iter().enumerate() {
                for (o, y) in y.iter_mut().enumerate() {
                    *y += f64::from(w[o * (w.len() / n_out) + i]) * x;
                }
            }
            y
        }

        fn normed(&self, name: &str, x: &[f64]) -> Vec<f64> {
            let w = self.gguf.read_tensor_f32(name).unwrap();
            let mean: f64 = x.iter().map(|x| x.powi(2)).sum::<f64>() / x.len() as f64;
            let eps = f64::from(self.gguf.f32("llama.attention.layer_norm_rms_epsilon").unwrap());
            x.iter()
                .zip(w)
                .map(|(x, w)| x / (mean + eps).sqrt() * f64::from(w))
                .collect()
        }

        fn turned(&self, x: &[f64], pos: usize) -> Vec<f64> {
            let d = self.shape.head_dim_k as usize;
            let mut y = x.to_vec();
            for i in (0..x.len()).step_by(2) {
                let turn = pos as f64 / 10_000f64.powf((i % d) as f64 / d as f64);
                let (re, im) = (turn.cos(), turn.sin());
                y[i] = x[i] * re - x[i + 1] * im;
                y[i + 1] = x[i] * im + x[i + 1] * re;
            }
            y
        }

        fn attention(&self, il: usize, q: &[f64]) -> Vec<f64> {
            let d = self.shape.head_dim_k as usize;
            let per_group = (self.shape.n_head[0] / self.shape.n_head_kv[0]) as usize;
            let mut o = vec![0.0; q.len()];
            for h in 0..q.len() / d {
                let g = h / per_group;
                let (mut max, mut sum, mut acc) = (f64::MIN, 0.0, vec![0.0; d]);
                for (k, v) in &self.cache[il] {
                    let score: f64 =
                        (0..d).map(|e| q[h * d + e] * k[g * d + e]).sum::<f64>() / (d as f64).sqrt();
                    let new_max = score.max(max);
                    let (shrink, weight) = ((max - new_max).exp(), (score - new_max).exp());
                    max = new_max;
                    sum = sum * shrink + weight;
                    for e in 0..d {
                        acc[e] = acc[e] * shrink + weight * v[g * d + e];
                    }
                }
                for e in 0..d {
                    o[h * d + e] = acc[e] / sum;
                }
            }
            o
        }

        /// Feeds the next row, returns its logits.
        pub fn feed(&mut self, input: &Input, pos: usize) -> Vec<f64> {
            let mut x = match input {
                Input::Embedding(row) => row.clone(),
                Input::Token(token) => {
                    let n = self.shape.n_embd as usize;
                    let table = self.gguf.read_tensor_f32("token_embd.weight").unwrap();
                    table[token * n..][..n].iter().copied().map(f64::from).collect()
                }
            };
            for il in 0..self.shape.n_layer as usize {
                let name = |suffix: &str| format!("blk.{il}.{suffix}.weight");
                let h = self.normed(&name("attn_norm"), &x);
                let q = self.turned(&self.product(&name("attn_q"), &h), pos);
                let k = self.turned(&self.product(&name("attn_k"), &h), pos);
                let v = self.product(&name("attn_v"), &h);
                self.cache[il].push((k, v));
                let a = self.product(&name("attn_output"), &self.attention(il, &q));
                x.iter_mut().zip(a).for_each(|(x, a)| *x += a);
                let h = self.normed(&name("ffn_norm"), &x);
                let gate = self.product(&name("ffn_gate"), &h);
                let up = self.product(&name("ffn_up"), &h);
                let inner: Vec<f64> = gate
                    .iter()
                    .zip(up)
                    .map(|(g, u)| g * u * (0.5 + 0.5 * (g / 2.0).tanh()))
                    .collect();
                let f = self.product(&name("ffn_down"), &inner);
                x.iter_mut().zip(f).for_each(|(x, f)| *x += f);
            }
            let h = self.normed("output_norm.weight", &x);
            let has_output = self.gguf.tensor("output.weight").is_some();
            self.product(
                if has_output {
                    "output.weight"
                } else {
                    "token_embd.weight"
                },
                &h,
            )
        }
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

/// Thresholds with which a model that is not trained fuses and exits.
fn lively() -> VisiPrunerConfig {
    VisiPrunerConfig {
        stages: Stages::ALL,
        shallow_mid_layer: 2,
        layer_threshold: 0.99,
        tokens_threshold: 0.3,
        tokens_threshold_unit: TokensThresholdUnit::Relative,
        exit_threshold: 0.5,
        exit_layers: 1,
        ..VisiPrunerConfig::default()
    }
}

fn shallow(changes: impl FnOnce(&mut VisiPrunerConfig)) -> VisiPrunerConfig {
    let stages = Stages {
        shallow: true,
        middle: false,
        deep: false,
    };
    let mut config = VisiPrunerConfig { stages, ..lively() };
    changes(&mut config);
    config
}

fn vision_weights(weights: &[f64], layout: &PromptLayout) -> Vec<f64> {
    layout
        .vision_rows()
        .iter()
        .map(|row| weights[row.0 as usize])
        .collect()
}

/// What the last row's weights on vision become in layer 0 (whose input no operator has touched) and in layer
/// 1.
#[test]
fn shallow_operators_do_what_they_are_called() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 10);
    let run = |config: VisiPrunerConfig| fixture.reference.run(&prompt, &layout, &staged(config));
    let dense = fixture.reference.run(&prompt, &layout, &off());
    let merge = run(shallow(|c| c.layer0 = Layer0::Merge));
    let half = run(shallow(|c| c.layer0 = Layer0::Half));
    let none = run(shallow(|c| c.layer0 = Layer0::None));
    let skip = run(shallow(|c| {
        c.layer0 = Layer0::None;
        c.shallow_mask = ShallowMask::Skip;
    }));
    for h in 0..fixture.reference.n_head {
        let before = vision_weights(&dense.layers[0].weights[h], &layout);
        let mut summed = vec![0.0; 10];
        summed[0] = before.iter().sum();
        assert_close(
            &vision_weights(&merge.layers[0].weights[h], &layout),
            &summed,
            1e-15,
        );
        let halved = [&[0.0; 5][..], &before[5..]].concat();
        assert_eq!(vision_weights(&half.layers[0].weights[h], &layout), halved);
        assert_eq!(vision_weights(&none.layers[0].weights[h], &layout), before);

        let sunk = &none.layers[1].weights[h];
        assert_eq!(vision_weights(sunk, &layout), [0.0; 10]);
        let on_vision: f64 = vision_weights(&dense.layers[1].weights[h], &layout).iter().sum();
        assert!((sunk.iter().sum::<f64>() - (1.0 - on_vision)).abs() < 1e-12);
        let skipped = &skip.layers[1].weights[h];
        assert_eq!(vision_weights(skipped, &layout), [0.0; 10]);
        assert!((skipped.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}

/// Every combination of the shallow stage is another function.
#[test]
fn shallow_variants_differ() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 11);
    let mut all = vec![fixture.reference.run(&prompt, &layout, &off()).logits];
    for layer0 in [Layer0::Merge, Layer0::Half, Layer0::None] {
        for shallow_mask in [ShallowMask::Sink, ShallowMask::Skip] {
            for visual_self_attention in [VisualSelfAttention::Keep, VisualSelfAttention::Remove] {
                let config = shallow(|c| {
                    (c.layer0, c.shallow_mask, c.visual_self_attention) =
                        (layer0, shallow_mask, visual_self_attention);
                });
                all.push(fixture.reference.run(&prompt, &layout, &staged(config)).logits);
            }
        }
    }
    for (i, a) in all.iter().enumerate() {
        for b in &all[..i] {
            let largest = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(largest > 1e-3);
        }
    }
}

fn summary(run: &Run) -> (Option<usize>, Option<usize>, Vec<usize>) {
    (run.fusion_layer, run.exit_layer, run.n_cells())
}

/// The stages at work: fusion above `k`, the kept set, the exit, and what is left for decode.
#[test]
fn stages() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 12);
    let run = |config: &VisiPrunerConfig| fixture.reference.run(&prompt, &layout, &staged(config.clone()));
    let with = |changes: &dyn Fn(&mut VisiPrunerConfig)| {
        let mut config = VisiPrunerConfig {
            stages: Stages::MIDDLE_DEEP,
            ..lively()
        };
        changes(&mut config);
        run(&config)
    };

    let both = with(&|_| {});
    let n_kept = both.kept.as_ref().unwrap().len();
    assert!((1..10).contains(&n_kept), "{n_kept}");
    let text = 10;
    let left = text + n_kept;
    assert_eq!(
        summary(&both),
        (Some(3), Some(4), vec![20, 20, 20, 20, left, text])
    );

    let middle = with(&|c| c.stages.deep = false);
    assert_eq!(
        summary(&middle),
        (Some(3), None, vec![20, 20, 20, 20, left, left])
    );

    let nothing_fires = with(&|c| c.layer_threshold = -1.0);
    assert_eq!(summary(&nothing_fires), (None, None, vec![20; 6]));
    assert_eq!(nothing_fires.kept, None);

    let empty = with(&|c| c.tokens_threshold = 1e9);
    assert_eq!(
        summary(&empty),
        (Some(3), Some(3), vec![20, 20, 20, 20, text, text])
    );

    let everything = with(&|c| c.tokens_threshold = 0.0);
    assert_eq!(
        summary(&everything),
        (Some(3), Some(4), vec![20, 20, 20, 20, 20, text])
    );

    let never_counted = with(&|c| c.exit_threshold = 1.0);
    assert_eq!(
        summary(&never_counted),
        (Some(3), None, vec![20, 20, 20, 20, left, left])
    );

    let first = with(&|c| c.shallow_mid_layer = 0);
    assert_eq!(first.fusion_layer, Some(1));

    let by_layer = with(&|c| {
        c.stages.middle = false;
        c.mid_deep_layer = Some(4);
    });
    assert_eq!(
        summary(&by_layer),
        (None, Some(3), vec![20, 20, 20, 20, text, text])
    );

    let evicted = with(&|c| c.evict_shallow_kv = true);
    assert_eq!(
        summary(&evicted),
        (Some(3), Some(4), vec![text, text, 20, 20, left, text])
    );
    assert_eq!(evicted.logits, both.logits);
    assert_ne!(evicted.decode(2).logits[1], both.decode(2).logits[1]);
}

/// With a threshold between the counts of its layers, one that misses resets consecutive counting only.
#[test]
fn exit_counting() {
    let fixture = fixture(&RandomLlm { n_layer: 10, ..gqa() });
    let layout = two_images();
    let counting = VisiPrunerConfig {
        stages: Stages::MIDDLE_DEEP,
        shallow_mid_layer: 0,
        tokens_threshold: 0.1,
        exit_layers: 2,
        ..lively()
    };
    let mut differ = 0;
    for seed in 0..8 {
        let prompt = prompt(&fixture.reference, &layout, 100 + seed);
        let run = |config: VisiPrunerConfig| fixture.reference.run(&prompt, &layout, &staged(config));
        // The kept tokens' least cosine in each layer after fusion, without an exit.
        let without = run(VisiPrunerConfig {
            exit_threshold: 1.0,
            ..counting.clone()
        });
        let fusion = without.fusion_layer.unwrap();
        let least: Vec<f64> = without.layers[fusion + 1..]
            .iter()
            .map(|l| l.cos.iter().copied().fold(1.0, f64::min))
            .collect();
        let mut sorted = least.clone();
        sorted.sort_by(f64::total_cmp);
        let exit_threshold = sorted[sorted.len() / 2];
        let hits: Vec<usize> = (0..least.len()).filter(|&i| least[i] >= exit_threshold).collect();

        let cumulative = run(VisiPrunerConfig {
            exit_threshold,
            ..counting.clone()
        });
        assert_eq!(cumulative.exit_layer, hits.get(1).map(|i| fusion + 1 + i));
        let exit_count = ExitCount::Consecutive;
        let consecutive = run(VisiPrunerConfig {
            exit_threshold,
            exit_count,
            ..counting.clone()
        });
        let pair = hits.windows(2).find(|pair| pair[1] == pair[0] + 1);
        assert_eq!(consecutive.exit_layer, pair.map(|pair| fusion + 1 + pair[1]));
        differ += usize::from(cumulative.exit_layer != consecutive.exit_layer);
    }
    assert!(differ > 0);
}

#[test]
fn fixed_schedules() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 13);
    let run = |text: &str| {
        let schedule: Schedule = text.parse().unwrap();
        fixture
            .reference
            .run(&prompt, &layout, &Rule::Policy(PolicyConfig::Fixed(schedule)))
    };
    let some = run("2/3/5");
    assert_eq!(summary(&some), (Some(2), Some(4), vec![20, 20, 20, 13, 13, 10]));
    let norms = &some.layers[2].norm;
    let kept = some.kept.unwrap();
    let least_kept = kept.iter().map(|&token| norms[token]).fold(f64::MAX, f64::min);
    let above = norms.iter().filter(|&&norm| norm >= least_kept).count();
    assert_eq!((kept.len(), above), (3, 3));
    assert_eq!(run("1/0/5").n_cells(), [20, 20, 10, 10, 10, 10]);
    assert_eq!(run("1/99/6").n_cells(), [20; 6]);
    assert_eq!(run("0/2/1").n_cells(), [20, 10, 10, 10, 10, 10]);
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
