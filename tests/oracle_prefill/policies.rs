//! The policies of other papers against their rules written down again: rankings from full attention matrices of a
//! reference that drops nothing but hides, raters and diversity from the definitions, over all pairs.

use super::common::dropping::Dropping;
use super::common::reference::{Input, Reference, Rule};
use super::{assert_near, gqa, indices, one_image, prompt, reference, two_images};
use visipruner::engine::prefill::{PrefillParams, Shared, prefill};
use visipruner::policy::trace::PrefillTrace;
use visipruner::policy::{Embeddings, PolicyConfig, PolicyOverrides, PromptLayout};

/// A prompt, and the embeddings that policies see of it.
struct Question<'a> {
    reference: &'a Reference,
    prompt: Vec<Input>,
    layout: PromptLayout,
    vision: Vec<Vec<f64>>,
    text: Vec<Vec<f64>>,
}

/// Who rates the vision tokens, by prompt row.
type Raters = Vec<usize>;

impl<'a> Question<'a> {
    fn new(reference: &'a Reference, layout: PromptLayout, seed: u64) -> Self {
        let prompt = prompt(reference, &layout, seed);
        let of_kind = |vision: bool| {
            let inputs = prompt.iter();
            inputs
                .filter(|input| matches!(input, Input::Embedding(_)) == vision)
                .map(|input| reference.embed(input))
                .collect()
        };
        Self {
            vision: of_kind(true),
            text: of_kind(false),
            reference,
            prompt,
            layout,
        }
    }

    fn n_vision(&self) -> usize {
        self.vision.len()
    }

    /// The crate's prefill, on an engine that really drops rows.
    fn run(&self, policy: &str, max_rows_per_call: usize) -> (PrefillTrace, Dropping<'_>) {
        let overrides = PolicyOverrides::from_toml(policy).unwrap();
        let config = overrides.apply(&PolicyConfig::Off).unwrap();
        let n_layer = self.reference.n_layer;
        let mut policy = config.build(n_layer, &self.layout).unwrap();
        let single = |rows: &[Vec<f64>]| rows.concat().iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (vision, text) = (single(&self.vision), single(&self.text));
        let cuts = config.cuts(n_layer);
        let params = PrefillParams {
            layout: &self.layout,
            n_layer,
            cuts: &cuts,
            max_rows_per_call: 64,
            max_rows_per_attention_probe: max_rows_per_call,
            probe_stride: 1,
            causal_images: true,
            embeddings: Some(Embeddings {
                n_embd: self.reference.n_embd,
                vision: &vision,
                text: Some(&text),
            }),
            shared: Shared::default(),
        };
        let mut engine = Dropping::new(self.reference, &self.prompt);
        let trace = prefill(&mut engine, &params, policy.as_mut()).unwrap();
        (trace, engine)
    }

    /// Holds what came out against the vision tokens of each layer.
    fn check(&self, policy: &str, present: &[Vec<usize>]) {
        let rule = Rule::Present(present.to_vec());
        let expected = self.reference.run(&self.prompt, &self.layout, &rule);
        // Calls of any size, and calls so short that raters are spread over several.
        for max_rows_per_call in [64, 3] {
            let (trace, engine) = self.run(policy, max_rows_per_call);
            let actual: Vec<Vec<usize>> = trace.layers.iter().map(|layer| indices(&layer.vision)).collect();
            assert_eq!(actual, present, "{policy}");
            assert_near(&engine.logits(), &expected.logits, 1e-9, policy);
            let entered = (present[0].len() < self.n_vision()).then(|| present[0].clone());
            assert_eq!(trace.entered.as_deref().map(indices), entered, "{policy}");
        }
    }

    /// `[n_vision]`: `a[h][i][j]` averaged over heads, in layer `il`, for a query after all images. Rows see only what
    /// precedes them, so it is the last row of the prompt that ends with it.
    fn attention(&self, present: &[Vec<usize>], il: usize, query: usize) -> Vec<f64> {
        let layout = PromptLayout {
            n_rows: query + 1,
            ..self.layout.clone()
        };
        let rule = Rule::Present(present.to_vec());
        let run = self.reference.run(&self.prompt[..=query], &layout, &rule);
        let heads = &run.layers[il].weights;
        let mean = |row: usize| heads.iter().map(|head| head[row]).sum::<f64>() / heads.len() as f64;
        layout.vision.iter().flat_map(Clone::clone).map(mean).collect()
    }

    /// The vision tokens of each layer: in layer `il` of `schedule` the `n` with the most attention from the raters.
    fn ranked(&self, entered: &[usize], raters: &Raters, schedule: &[(usize, usize)]) -> Vec<Vec<usize>> {
        let mut present = vec![entered.to_vec(); self.reference.n_layer];
        for &(il, n) in schedule {
            let mut weight = vec![0.0; self.n_vision()];
            for &rater in raters {
                for (sum, weight) in weight.iter_mut().zip(self.attention(&present, il, rater)) {
                    *sum += weight / raters.len() as f64;
                }
            }
            let mut kept = present[il].clone();
            kept.sort_by(|&a, &b| weight[b].total_cmp(&weight[a]).then(a.cmp(&b)));
            if let [.., last, next] = kept[..(n + 1).min(kept.len())] {
                assert!(weight[last] - weight[next] > 1e-6, "the choice hangs on rounding");
            }
            kept.truncate(n);
            kept.sort_unstable();
            present[il + 1..].fill(kept);
        }
        present
    }

    fn last(&self) -> Raters {
        vec![self.layout.n_rows - 1]
    }

    /// Text rows after the last image with `mean_i softmax_j(v_i . t_j)` at least the mean of these.
    fn raters(&self, present: &[usize]) -> Raters {
        let first = self.layout.vision.last().unwrap().end;
        let n_after = self.layout.n_rows - first;
        let text = &self.text[self.text.len() - n_after..];
        let mut affinity = vec![vec![0.0; n_after]; present.len()];
        for (row, &i) in affinity.iter_mut().zip(present) {
            for (cell, t) in row.iter_mut().zip(text) {
                *cell = self.vision[i]
                    .iter()
                    .zip(t)
                    .map(|(v, t)| v * t)
                    .sum::<f64>()
                    .exp();
            }
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|cell| *cell /= sum);
        }
        let r: Vec<f64> = (0..n_after)
            .map(|j| affinity.iter().map(|row| row[j]).sum::<f64>() / present.len() as f64)
            .collect();
        let mean = r.iter().sum::<f64>() / n_after as f64;
        (0..n_after)
            .filter(|&j| r[j] >= mean)
            .map(|j| first + j)
            .collect()
    }

    /// The greedy choice of DivPrune.
    fn diverse(&self, n: usize) -> Vec<usize> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let distance = |i: usize, j: usize| {
            let (a, b) = (&self.vision[i], &self.vision[j]);
            1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let mut chosen: Vec<usize> = Vec::new();
        for _ in 0..n {
            let nearest = |i: usize| {
                let others = (0..self.n_vision()).filter(|&j| j != i);
                let others = others.filter(|j| chosen.is_empty() || chosen.contains(j));
                others.map(|j| distance(i, j)).fold(f64::INFINITY, f64::min)
            };
            let free = (0..self.n_vision()).filter(|i| !chosen.contains(i));
            let next = free.max_by(|&a, &b| nearest(a).total_cmp(&nearest(b))).unwrap();
            chosen.push(next);
        }
        chosen.sort_unstable();
        chosen
    }
}

/// Several random models and prompts, with one image and with two.
fn questions(check: impl Fn(&Question)) {
    for seed in 31..35 {
        let reference = reference(&gqa(seed));
        for layout in [one_image(), two_images()] {
            check(&Question::new(&reference, layout, seed + 500));
        }
    }
}

#[test]
fn fastv_ranks_by_the_last_row_in_one_layer() {
    questions(|question| {
        let all: Vec<usize> = (0..question.n_vision()).collect();
        let n = question.n_vision().div_ceil(2);
        question.check(
            "policy = 'fastv'",
            &question.ranked(&all, &question.last(), &[(1, n)]),
        );
    });
}

#[test]
fn pyramiddrop_ranks_in_stages() {
    questions(|question| {
        let all: Vec<usize> = (0..question.n_vision()).collect();
        question.check(
            "policy = 'pyramiddrop'\nrank_layers = [0, 2, 3]\nkeep = [8, 5, 2]",
            &question.ranked(&all, &question.last(), &[(0, 8), (2, 5), (3, 2)]),
        );
    });
}

#[test]
fn sparsevlm_lets_the_text_rate() {
    let mut n_raters = Vec::new();
    for seed in 41..49 {
        let reference = reference(&gqa(seed));
        let question = Question::new(&reference, two_images(), seed);
        let all: Vec<usize> = (0..question.n_vision()).collect();
        let raters = question.raters(&all);
        question.check(
            "policy = 'sparsevlm'\nrank_layers = [1, 3]\nkeep = [7, 3]",
            &question.ranked(&all, &raters, &[(1, 7), (3, 3)]),
        );
        n_raters.push(raters.len());
    }
    // Neither always one nor always all of the eight text rows after the last image.
    assert!(
        n_raters.iter().any(|&n| n > 1) && n_raters.iter().all(|&n| n < 8),
        "{n_raters:?}"
    );
}

#[test]
fn vtw_withdraws_vision() {
    questions(|question| {
        let all: Vec<usize> = (0..question.n_vision()).collect();
        let mut present = vec![all; question.reference.n_layer];
        present[3..].fill(Vec::new());
        question.check("policy = 'vtw'\nexit_from = 3", &present);
    });
}

#[test]
fn divprune_keeps_what_differs() {
    questions(|question| {
        let kept = question.diverse(4);
        question.check(
            "policy = 'divprune'\nbudget = 4",
            &vec![kept; question.reference.n_layer],
        );
    });
}

#[test]
fn what_divprune_left_is_ranked() {
    questions(|question| {
        let entered = question.diverse(7);
        question.check(
            "policy = 'divprune+fastv'\nbudget = 7\nkeep = 3",
            &question.ranked(&entered, &question.last(), &[(1, 3)]),
        );
        let raters = question.raters(&entered);
        question.check(
            "policy = 'divprune+sparsevlm'\nbudget = 7\nrank_layers = [0, 2]\nkeep = [5, 0]",
            &question.ranked(&entered, &raters, &[(0, 5), (2, 0)]),
        );
    });
}

#[test]
fn what_random_left_is_withdrawn() {
    questions(|question| {
        let (trace, _) = question.run("policy = 'random'\nbudget = 5\npolicy_seed = 9", 64);
        let entered = indices(&trace.layers[0].vision);
        assert_eq!(entered.len(), 5);
        let mut present = vec![entered; question.reference.n_layer];
        present[2..].fill(Vec::new());
        question.check(
            "policy = 'random+vtw'\nbudget = 5\npolicy_seed = 9\nexit_from = 2",
            &present,
        );
    });
}
