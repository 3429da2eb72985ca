//! The vision encoder against a literal implementation of LLaVA's, in double precision, and against what stock
//! llama.cpp does differently: class token behind the patches, one layer less.
#![cfg(feature = "native")]

mod common;

use std::ops::ControlFlow::Continue;
use std::path::Path;

use common::random_model::{Arch, RandomLlm, RandomProjector};
use common::rng::Rng;
use visipruner::engine::{Image, Model, ModelOptions, Projector, ProjectorOptions, VisionEncoder};
use visipruner::gguf::{GgmlType, Gguf};

/// Rows of vectors, `[rows][width]`.
type Rows = Vec<Vec<f64>>;

/// LLaVA's encoder and projector, as written down, with the two places in which stock differs.
struct Literal<'a> {
    gguf: &'a Gguf,
    class_token_first: bool,
    n_layer: usize,
    n_head: usize,
}

impl Literal<'_> {
    fn tensor(&self, name: &str) -> Vec<f64> {
        self.gguf
            .read_tensor_f32(name)
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect()
    }

    fn linear(&self, rows: &Rows, name: &str) -> Rows {
        let (weight, bias) = (
            self.tensor(&format!("{name}.weight")),
            self.tensor(&format!("{name}.bias")),
        );
        rows.iter()
            .map(|row| {
                let dots = weight.chunks_exact(row.len()).map(|w| dot(w, row));
                dots.zip(&bias).map(|(x, b)| x + b).collect()
            })
            .collect()
    }

    fn norm(&self, rows: &Rows, name: &str) -> Rows {
        let (weight, bias) = (
            self.tensor(&format!("{name}.weight")),
            self.tensor(&format!("{name}.bias")),
        );
        rows.iter()
            .map(|row| {
                let n = row.len() as f64;
                let mean = row.iter().sum::<f64>() / n;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                let scale = 1.0 / (variance + 1e-5).sqrt();
                row.iter()
                    .zip(weight.iter().zip(&bias))
                    .map(|(x, (w, b))| (x - mean) * scale * w + b)
                    .collect()
            })
            .collect()
    }

    fn attention(&self, rows: &Rows, il: usize) -> Rows {
        let project = |what: &str| self.linear(rows, &format!("v.blk.{il}.attn_{what}"));
        let (q, k, v) = (project("q"), project("k"), project("v"));
        let d_head = rows[0].len() / self.n_head;
        let mut out = vec![Vec::new(); rows.len()];
        for h in 0..self.n_head {
            let of_head = h * d_head..(h + 1) * d_head;
            for (out, q) in out.iter_mut().zip(&q) {
                let scores = k.iter().map(|k| dot(&q[of_head.clone()], &k[of_head.clone()]));
                let weights: Vec<f64> = scores.map(|s| (s / (d_head as f64).sqrt()).exp()).collect();
                let sum: f64 = weights.iter().sum();
                out.extend(
                    of_head
                        .clone()
                        .map(|i| v.iter().zip(&weights).map(|(v, w)| v[i] * w / sum).sum::<f64>()),
                );
            }
        }
        self.linear(&out, &format!("v.blk.{il}.attn_out"))
    }

    /// Patches from left to right, rows of patches from top to bottom; `pixels` are normalised, `[y][x][3]`.
    fn patches(&self, pixels: &[[f64; 3]], side: usize, patch_size: usize) -> Rows {
        let weight = self.tensor("v.patch_embd.weight");
        let of_channel = patch_size * patch_size;
        let mut rows = Rows::new();
        for y0 in (0..side).step_by(patch_size) {
            for x0 in (0..side).step_by(patch_size) {
                let embed = |w: &[f64]| -> f64 {
                    (0..3 * of_channel)
                        .map(|i| {
                            let (c, y, x) = (i / of_channel, i % of_channel / patch_size, i % patch_size);
                            w[i] * pixels[(y0 + y) * side + x0 + x][c]
                        })
                        .sum()
                };
                rows.push(weight.chunks_exact(3 * of_channel).map(embed).collect());
            }
        }
        rows
    }

    /// The vision tokens, `[patches][n_embd of the language model]`.
    fn encode(&self, patches: Rows) -> Rows {
        let n_patches = patches.len();
        let class_token = vec![self.tensor("v.class_embd")];
        let rows = if self.class_token_first {
            [class_token, patches]
        } else {
            [patches, class_token]
        }
        .concat();
        let positions = self.tensor("v.position_embd.weight");
        let positions: Rows = positions
            .chunks_exact(rows[0].len())
            .map(<[f64]>::to_vec)
            .collect();

        let mut rows = self.norm(&add(&rows, &positions), "v.pre_ln");
        for il in 0..self.n_layer {
            rows = add(
                &rows,
                &self.attention(&self.norm(&rows, &format!("v.blk.{il}.ln1")), il),
            );
            let hidden = self.linear(
                &self.norm(&rows, &format!("v.blk.{il}.ln2")),
                &format!("v.blk.{il}.ffn_up"),
            );
            let quick_gelu = map(&hidden, |x| x / (1.0 + (-1.702 * x).exp()));
            rows = add(&rows, &self.linear(&quick_gelu, &format!("v.blk.{il}.ffn_down")));
        }

        // the first row is taken for the class token's, wherever that is
        let rows = rows[1..=n_patches].to_vec();
        let gelu = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        self.linear(&map(&self.linear(&rows, "mm.0"), gelu), "mm.2")
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &Rows, b: &Rows) -> Rows {
    a.iter()
        .zip(b)
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect())
        .collect()
}

fn map(rows: &Rows, f: impl Fn(f64) -> f64) -> Rows {
    rows.iter()
        .map(|row| row.iter().map(|x| f(*x)).collect())
        .collect()
}

/// A projector on disk, its language model, and a picture of the encoder's own size, which nothing resizes.
struct Fixture {
    folder: tempfile::TempDir,
    model: Model,
    projector: RandomProjector,
    image: Image,
}

impl Fixture {
    fn new(projector: RandomProjector) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let llm = RandomLlm {
            n_layer: 1,
            ..RandomLlm::new(Arch::Llama, 31)
        };
        llm.write(folder.path().join("model.gguf"));
        let projector = RandomProjector {
            n_embd_out: llm.n_embd(),
            ..projector
        };
        projector.write(folder.path().join("mmproj.gguf"));
        let model = Model::load(folder.path().join("model.gguf"), &ModelOptions::default(), |_| {
            Continue(())
        })
        .unwrap();
        let side = projector.patches_per_side * projector.patch_size;
        let mut rng = Rng::new(32);
        let data = (0..side * side * 3)
            .map(|_| (rng.uniform() * 256.0) as u8)
            .collect();
        let image = Image::from_rgb8(side as u32, side as u32, data).unwrap();
        Fixture {
            folder,
            model,
            projector,
            image,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("mmproj.gguf")
    }

    fn load(&self, path: &Path, encoder: VisionEncoder) -> Projector {
        let options = ProjectorOptions {
            n_threads: Some(1),
            encoder,
            ..ProjectorOptions::default()
        };
        Projector::load(path, &self.model, &options, |_| Continue(())).unwrap()
    }

    fn ours(&self, encoder: VisionEncoder) -> Rows {
        self.rows(self.load(&self.path(), encoder).encode(&self.image).unwrap())
    }

    fn rows(&self, flat: Vec<f32>) -> Rows {
        flat.chunks_exact(self.projector.n_embd_out)
            .map(|row| row.iter().map(|x| f64::from(*x)).collect())
            .collect()
    }

    fn literal(&self, class_token_first: bool, n_layer: usize) -> Rows {
        let gguf = Gguf::open(self.path()).unwrap();
        let encoder = Literal {
            gguf: &gguf,
            class_token_first,
            n_layer,
            n_head: self.projector.n_head,
        };
        let (mean, std) = ([0.481, 0.458, 0.408], [0.269, 0.261, 0.276]);
        let pixels = self.image.data().chunks_exact(3);
        let pixels: Vec<[f64; 3]> = pixels
            .map(|rgb| std::array::from_fn(|c| (f64::from(rgb[c]) / 255.0 - mean[c]) / std[c]))
            .collect();
        let side = self.image.width() as usize;
        encoder.encode(encoder.patches(&pixels, side, self.projector.patch_size))
    }
}

/// The smallest cosine of any vision token.
fn least_cosine(a: &Rows, b: &Rows) -> f64 {
    assert_eq!(a.len(), b.len());
    let cosines = a
        .iter()
        .zip(b)
        .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    cosines.fold(1.0, f64::min)
}

/// F32 arithmetic; ggml looks up GELU in a table of F16 values.
const SAME: f64 = 0.99999;
/// Far below what any of the differences under test leaves.
const OTHER: f64 = 0.99;

#[test]
fn the_reference_encoder_is_llavas() {
    for ty in [GgmlType::F32, GgmlType::F16] {
        let fixture = Fixture::new(RandomProjector {
            ty,
            ..RandomProjector::new(33, 0)
        });
        let n_layer = fixture.projector.n_layer;
        let ours = fixture.ours(VisionEncoder::Reference);
        let cosine = least_cosine(&ours, &fixture.literal(true, n_layer));
        assert!(cosine > SAME, "{}: {cosine}", ty.name());
        for (class_token_first, n_layer) in [(false, n_layer), (true, n_layer - 1)] {
            let cosine = least_cosine(&ours, &fixture.literal(class_token_first, n_layer));
            assert!(
                cosine < OTHER,
                "class token first {class_token_first}, {n_layer} layers: {cosine}"
            );
        }
    }
}

#[test]
fn the_upstream_encoder_is_stock() {
    let fixture = Fixture::new(RandomProjector::new(34, 0));
    let ours = fixture.ours(VisionEncoder::Upstream);
    let cosine = least_cosine(&ours, &fixture.literal(false, fixture.projector.n_layer - 1));
    assert!(cosine > SAME, "{cosine}");
}

#[test]
fn a_feature_layer_named_by_the_file_wins() {
    for (feature_layer, encoder) in [
        (2, VisionEncoder::Reference),
        (2, VisionEncoder::Upstream),
        (3, VisionEncoder::Upstream),
    ] {
        let projector = RandomProjector {
            feature_layer: Some(feature_layer),
            ..RandomProjector::new(35, 0)
        };
        let fixture = Fixture::new(projector);
        let class_token_first = encoder == VisionEncoder::Reference;
        let literal = fixture.literal(class_token_first, feature_layer as usize);
        let cosine = least_cosine(&fixture.ours(encoder), &literal);
        assert!(cosine > SAME, "layer {feature_layer}, {encoder:?}: {cosine}");
    }
}

/// The choice belongs to the projector, not to the thread or the process.
#[test]
fn projectors_of_both_kinds_live_side_by_side() {
    let fixture = Fixture::new(RandomProjector::new(36, 0));
    let mut reference = fixture.load(&fixture.path(), VisionEncoder::Reference);
    let mut upstream = fixture.load(&fixture.path(), VisionEncoder::Upstream);
    let alone = [VisionEncoder::Reference, VisionEncoder::Upstream].map(|encoder| fixture.ours(encoder));
    for _ in 0..2 {
        assert_eq!(fixture.rows(reference.encode(&fixture.image).unwrap()), alone[0]);
        assert_eq!(fixture.rows(upstream.encode(&fixture.image).unwrap()), alone[1]);
    }
    assert_ne!(alone[0], alone[1]);
}
