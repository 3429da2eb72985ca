//! Inspections as a model could give them: sinks from the first layers on, fusion at one object of the picture, then
//! little.

use crate::inspect::*;
use crate::policy::Stage;
use crate::policy::config::VisiPrunerConfig;

const SHAPES: &[u8] = include_bytes!("../../../models/demo/shapes.png");
const TRIO: &[u8] = include_bytes!("../../../models/demo/trio.png");
/// The object that is asked for, in shares of the picture: the star.
const OBJECT: (f64, f64) = (0.76, 0.22);

/// 10 layers, 8 x 8 tokens, as the shipped model.
pub fn small() -> Inspection {
    Recipe {
        n_layer: 10,
        n_side: 8,
        k: 2,
        fusion: Some(4),
        exit: Some(7),
        pictures: &[("shapes.png", SHAPES)],
    }
    .inspection()
}

/// 32 layers, 24 x 24 tokens, as LLaVA-1.5 7B.
pub fn large() -> Inspection {
    Recipe {
        n_layer: 32,
        n_side: 24,
        k: 6,
        fusion: Some(15),
        exit: Some(23),
        pictures: &[("shapes.png", SHAPES)],
    }
    .inspection()
}

/// Two pictures.
pub fn two_images() -> Inspection {
    Recipe {
        n_layer: 10,
        n_side: 8,
        k: 2,
        fusion: Some(5),
        exit: Some(8),
        pictures: &[("shapes.png", SHAPES), ("trio.png", TRIO)],
    }
    .inspection()
}

/// No layer fires.
pub fn without_fusion() -> Inspection {
    Recipe {
        n_layer: 10,
        n_side: 8,
        k: 2,
        fusion: None,
        exit: None,
        pictures: &[("shapes.png", SHAPES)],
    }
    .inspection()
}

/// A model of one layer, without a policy.
pub fn one_layer() -> Inspection {
    let mut inspection = Recipe {
        n_layer: 1,
        n_side: 4,
        k: 0,
        fusion: None,
        exit: None,
        pictures: &[("trio.png", TRIO)],
    }
    .inspection();
    inspection.policy = None;
    inspection.others.clear();
    inspection
}

struct Recipe {
    n_layer: usize,
    n_side: usize,
    k: usize,
    fusion: Option<usize>,
    exit: Option<usize>,
    pictures: &'static [(&'static str, &'static [u8])],
}

/// A number from 0 to 1 that depends on its arguments only.
fn noise(a: usize, b: usize, c: usize) -> f64 {
    let mut x = (a as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((b as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add((c as u64).wrapping_mul(0x94d0_49bb_1331_11eb));
    for _ in 0..3 {
        x ^= x >> 31;
        x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    (x >> 11) as f64 / (1u64 << 53) as f64
}

impl Recipe {
    fn inspection(&self) -> Inspection {
        let layers: Vec<_> = (0..self.n_layer).map(|il| self.layer(il)).collect();
        let kept = self.fusion.map(|il| {
            let norms = layers[il].norm.iter().enumerate();
            norms
                .filter(|(_, norm)| **norm > 0.2)
                .map(|(token, _)| token as u32)
                .collect()
        });
        let policy = self.policy(&layers, kept);
        Inspection {
            model: format!("synthetic-{}l.gguf", self.n_layer),
            arch: "llama".to_owned(),
            n_layer: self.n_layer,
            question: "What color is the star?".to_owned(),
            answer: "yellow".to_owned(),
            images: self.images(),
            prompt: Some(self.prompt()),
            layers,
            policy: Some(policy),
            others: self.others(),
        }
    }

    fn n_tokens(&self) -> usize {
        self.n_side * self.n_side
    }

    fn n_vision(&self) -> usize {
        self.n_tokens() * self.pictures.len()
    }

    fn images(&self) -> Vec<InspectedImage> {
        let image = |(i, (name, png)): (usize, &(&str, &[u8]))| InspectedImage {
            name: (*name).to_owned(),
            png: png.to_vec(),
            width: 112,
            height: 112,
            first_token: i * self.n_tokens(),
            n_cols: self.n_side,
            n_rows: self.n_side,
        };
        self.pictures.iter().enumerate().map(image).collect()
    }

    fn prompt(&self) -> Vec<PromptPiece> {
        let text = |pieces: &[&str]| {
            pieces
                .iter()
                .map(|piece| PromptPiece::Text((*piece).to_owned()))
                .collect()
        };
        let before: Vec<_> = text(&["<s>", "USER", ":", " "]);
        let after: Vec<_> = text(&[
            "\n", "What", " color", " is", " the", " star", "?", " ASS", "IST", "ANT", ":",
        ]);
        let images = (0..self.pictures.len()).map(PromptPiece::Image);
        before.into_iter().chain(images).chain(after).collect()
    }

    /// How near a token is to the object in the first picture: 1 on it.
    fn nearness(&self, token: usize) -> f64 {
        if token >= self.n_tokens() {
            return 0.0;
        }
        let side = self.n_side as f64;
        let (x, y) = (
            (token % self.n_side) as f64 + 0.5,
            (token / self.n_side) as f64 + 0.5,
        );
        let distance = (x / side - OBJECT.0).hypot(y / side - OBJECT.1);
        (-(distance / 0.09).powi(2)).exp()
    }

    /// Few tokens, the same in all layers but the first.
    fn is_sink(&self, il: usize, token: usize) -> bool {
        il > 0 && noise(7, token, self.n_side) < 4.0 / self.n_tokens() as f64
    }

    /// How much the object matters in a layer: most at fusion, then less and less.
    fn fusing(&self, il: usize) -> f64 {
        let Some(fusion) = self.fusion else { return 0.02 };
        let from = il as f64 - fusion as f64;
        if from < 0.0 {
            (1.6 * from).exp()
        } else {
            (-0.55 * from).exp()
        }
    }

    fn layer(&self, il: usize) -> InspectedLayer {
        let n = self.n_vision();
        let depth = il as f64 / self.n_layer as f64;
        let fusing = self.fusing(il);
        let value_l1: Vec<f64> = (0..n)
            .map(|token| {
                let size = (6.0 + 14.0 * depth) * (0.75 + 0.5 * noise(il, token, 2));
                if self.is_sink(il, token) {
                    size * 0.06
                } else {
                    size
                }
            })
            .collect();
        let raw: Vec<f64> = (0..n)
            .map(|token| {
                let sink = if self.is_sink(il, token) {
                    6.0 * (1.0 - 0.6 * depth)
                } else {
                    0.0
                };
                0.05 + 0.25 * noise(il, token, 1).powi(3) + sink + 5.0 * fusing * self.nearness(token)
            })
            .collect();
        let total: f64 = raw.iter().sum::<f64>() / (0.05 + 0.35 * (1.0 - depth) + 0.3 * fusing);
        let attention: Vec<f64> = raw.iter().map(|weight| weight / total).collect();
        let output_norm = 2.0 + 3.0 * depth;
        // at fusion the object is well above the threshold of 0.2, whatever the number of tokens
        let scale = 14.0 * (self.n_side as f64 / 8.0).powf(1.4);
        let norm: Vec<f64> = attention
            .iter()
            .zip(&value_l1)
            .map(|(a, v)| a * v * 0.05 * scale)
            .collect();
        let cos = norm
            .iter()
            .map(|c| 1.0 - (c / output_norm).powi(2) * 1.5)
            .map(|cos| cos.max(-1.0))
            .collect();
        InspectedLayer {
            attention,
            norm,
            cos,
            output_norm,
            value_l1,
            text_value_l1: (0..15)
                .map(|token| 9.0 + 16.0 * depth + 4.0 * noise(il, token, 3))
                .collect(),
            top: words(il, depth, fusing, 11),
            value_top: words(il, depth * 0.8, fusing, 12),
        }
    }

    fn policy(&self, layers: &[InspectedLayer], kept: Option<Vec<u32>>) -> InspectedPolicy {
        let n_kept = kept.as_ref().map_or(self.n_vision(), Vec::len);
        let exit = self.exit.filter(|_| self.fusion.is_some());
        let layer = |il: usize| {
            let is_after = |end: Option<usize>| end.is_some_and(|end| il > end);
            let (stage, n_vision) = match il {
                _ if is_after(exit) => (Stage::Text, 0),
                _ if is_after(self.fusion) => (Stage::Deep, n_kept),
                _ if il > self.k => (Stage::Middle, self.n_vision()),
                _ if il < self.k => (Stage::Shallow, self.n_vision()),
                _ => (Stage::Dense, self.n_vision()),
            };
            let looks = matches!(stage, Stage::Middle | Stage::Deep);
            let min_cos = layers[il].min_cos().filter(|_| looks);
            let drift = if stage == Stage::Deep { 0.8 } else { 1.0 };
            let min_cos = min_cos.map(|cos| 1.0 - (1.0 - cos) * drift);
            PolicyLayer {
                stage,
                n_vision,
                min_cos,
            }
        };
        InspectedPolicy {
            label: "visipruner".to_owned(),
            thresholds: Some(Thresholds {
                shallow_mid_layer: self.k,
                ..Thresholds::from(&VisiPrunerConfig::default())
            }),
            answer: Some("yellow".to_owned()),
            fusion_layer: self.fusion,
            kept_after: self.fusion,
            kept,
            exit_layer: exit,
            layers: (0..self.n_layer).map(layer).collect(),
            skipped: self.fusion.is_none().then(|| "no layer fired".to_owned()),
        }
    }

    fn others(&self) -> Vec<KeptBy> {
        let n = self.n_vision();
        let pick = |share: f64, seed: usize| {
            (0..n as u32)
                .filter(|&t| noise(seed, t as usize, 5) < share)
                .collect()
        };
        let by = |policy: &str, kept: Vec<u32>, after_layer: Option<usize>| KeptBy {
            policy: policy.to_owned(),
            kept,
            after_layer: after_layer.filter(|il| *il < self.n_layer),
            answer: Some(
                if policy.starts_with("random") {
                    "red"
                } else {
                    "yellow"
                }
                .to_owned(),
            ),
        };
        let near = |least: f64| {
            (0..n as u32)
                .filter(|&t| self.nearness(t as usize) > least)
                .collect::<Vec<_>>()
        };
        let mut fastv: Vec<u32> = pick(0.08, 21);
        fastv.extend(near(0.3));
        fastv.sort_unstable();
        fastv.dedup();
        vec![
            by("fastv keep=64", fastv, Some(2)),
            by("divprune keep=64", pick(0.11, 22), None),
            by("random keep=64", pick(0.11, 23), None),
            by("uniform keep=64", (0..n as u32).step_by(9).collect(), None),
        ]
    }
}

fn words(il: usize, depth: f64, fusing: f64, seed: usize) -> Vec<Word> {
    const EARLY: [&str; 8] = [
        " the",
        "\n",
        " a",
        "ANT",
        "iegel",
        " Unterscheidung",
        "<unk>",
        "▁in",
    ];
    const LATE: [&str; 6] = [" yellow", " gold", " orange", " star", " white", " Yellow"];
    let known = (1.4 * depth * depth + 0.3 * fusing).min(0.97);
    let mut words: Vec<Word> = (0..5)
        .map(|rank| {
            let chance = noise(il, rank, seed);
            let is_late = chance < known + 0.1;
            let text = match (is_late, rank) {
                (true, _) => LATE[rank],
                (false, _) => EARLY[(il + rank + seed) % EARLY.len()],
            };
            let probability = (0.08 + 0.85 * known) * 0.45f64.powi(rank as i32) * (0.8 + 0.2 * chance);
            Word {
                text: text.to_owned(),
                probability,
            }
        })
        .collect();
    words.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    words
}
