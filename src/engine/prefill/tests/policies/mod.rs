//! Which rows run in which layer, and what the engine is asked for, policy by policy.

mod before;
mod ranking;
mod raters;

use super::*;
use crate::policy::{Embeddings, PolicyOverrides, Statistic};

const N_EMBD: usize = 3;

fn policy(fields: &str) -> PolicyConfig {
    let overrides = PolicyOverrides::from_toml(fields).unwrap();
    overrides.apply(&PolicyConfig::Off).unwrap()
}

/// A prompt with numbers for embeddings.
struct Question {
    layout: PromptLayout,
    vision: Vec<f32>,
    text: Vec<f32>,
}

impl Question {
    fn new(layout: PromptLayout) -> Self {
        let numbers = |n: usize, seed: usize| {
            let number = |i: usize| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0;
            (0..n * N_EMBD).map(number).collect()
        };
        Self {
            vision: numbers(layout.n_vision(), 5),
            text: numbers(layout.n_rows - layout.n_vision(), 71),
            layout,
        }
    }

    fn run(&self, engine: &mut Fake, fields: &str) -> PrefillTrace {
        self.run_with(engine, fields, |_| {})
    }

    fn run_with<'a>(
        &'a self,
        engine: &mut Fake,
        fields: &str,
        adjust: impl FnOnce(&mut PrefillParams<'a>),
    ) -> PrefillTrace {
        let policy = policy(fields);
        run_with(engine, &self.layout, &policy, |params| {
            params.embeddings = Some(Embeddings {
                n_embd: N_EMBD,
                vision: &self.vision,
                text: Some(&self.text),
            });
            adjust(params);
        })
    }
}

/// Attention by layer and token; every query gives the same.
fn attending(weight: impl Fn(usize, u32) -> f64 + 'static) -> Fake {
    Fake::attending(move |il, _, token| weight(il, token.0))
}

fn engine_at_rest() -> Fake {
    attending(|_, _| unreachable!())
}

fn vision_of(trace: &PrefillTrace, il: usize) -> Vec<u32> {
    trace.layers[il].vision.iter().map(|token| token.0).collect()
}

/// Layer, statistic and queries of each probe, in the order of the calls.
fn asked(engine: &Fake) -> Vec<(usize, Statistic, Vec<u32>)> {
    let probes = engine.calls.iter().filter_map(|call| call.probe.as_ref());
    probes
        .map(|probe| {
            let queries = probe.queries.iter().map(|row| row.0).collect();
            (probe.layers.start, probe.statistic, queries)
        })
        .collect()
}

fn ranges(engine: &Fake) -> Vec<Range<usize>> {
    engine.calls.iter().map(|call| call.layers.clone()).collect()
}

fn layouts() -> [PromptLayout; 3] {
    let one_token = PromptLayout {
        n_rows: 3,
        vision: vec![1..2],
    };
    [one_image(), two_images(), one_token]
}

const WHOLE: [&str; 10] = [
    "policy = 'dense_staged'",
    "policy = 'fastv'\nkeep = '100%'",
    "policy = 'fastv'\nkeep = 999",
    "policy = 'pyramiddrop'\nrank_layers = [1, 4]\nkeep = ['100%', '100%']",
    "policy = 'sparsevlm'\nrank_layers = [2, 6]\nkeep = [300, 200]",
    "policy = 'vtw'\nexit_from = 10",
    "policy = 'divprune'\nbudget = '100%'",
    "policy = 'random'\nbudget = 999",
    "policy = 'uniform'\nbudget = '100%'",
    "policy = 'divprune+fastv'\nbudget = '100%'\nkeep = '100%'",
];

#[test]
fn the_whole_budget_runs_the_rows_of_a_dense_prefill() {
    for layout in layouts() {
        let question = Question::new(layout.clone());
        for fields in WHOLE {
            let mut engine = attending(|_, token| f64::from(token) / 16.0);
            let trace = question.run(&mut engine, fields);
            assert_eq!(rows_per_layer(&trace), [layout.n_rows; N_LAYER], "{fields}");
            assert!(trace.skipped.is_some() && trace.kept.is_none(), "{fields}");
        }
    }
}

#[test]
fn one_token_is_kept_as_long_as_any_is() {
    let question = Question::new(layouts()[2].clone());
    for fields in [
        "policy = 'fastv'\nkeep = '1%'",
        "policy = 'divprune'",
        "policy = 'random'\nbudget = 1",
        "policy = 'uniform'\nbudget = '0.5%'",
    ] {
        let trace = question.run(&mut attending(|_, _| 0.5), fields);
        assert_eq!(rows_per_layer(&trace), [3; N_LAYER], "{fields}");
    }
}

#[test]
fn prompts_without_work_run_dense() {
    let text = PromptLayout {
        n_rows: 5,
        vision: Vec::new(),
    };
    let ends_in_image = PromptLayout {
        n_rows: 5,
        vision: vec![2..5],
    };
    for (layout, reason) in [(text, Skipped::NoImage), (ends_in_image, Skipped::EndsInImage)] {
        for fields in [
            "policy = 'random'\nbudget = 1",
            "policy = 'divprune+fastv'\nbudget = 1",
        ] {
            let trace = Question::new(layout.clone()).run(&mut engine_at_rest(), fields);
            assert_eq!(trace.skipped, Some(reason.clone()));
        }
    }
}
