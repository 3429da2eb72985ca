//! The policies of other papers on the engine, against the same prefill in double precision: which rows run in which
//! layer, what was read, and the logits.

use visipruner::engine::prefill::{PrefillParams, Shared, prefill};
use visipruner::policy::trace::PrefillTrace;
use visipruner::policy::{Embeddings, PolicyOverrides};
use visipruner::report::DropReport;

use super::common::dropping::Dropping;
use super::*;

/// For a model of 8 layers and 16 vision tokens per image.
const POLICIES: [&str; 9] = [
    "policy = 'vtw'\nexit_from = 5",
    "policy = 'fastv'\nrank_layers = [1]\nkeep = ['25%']",
    "policy = 'pyramiddrop'\nrank_layers = [1, 3, 5]\nkeep = ['50%', '25%', '12.5%']",
    "policy = 'sparsevlm'\nrank_layers = [1, 3, 5]\nkeep = [9, 5, 2]",
    "policy = 'sparsevlm'\nrank_layers = [0, 4]\nkeep = ['50%', 0]",
    "policy = 'divprune'\nbudget = 5",
    "policy = 'random'\nbudget = 5\npolicy_seed = 4",
    "policy = 'divprune+fastv'\nbudget = 9\nrank_layers = [2]\nkeep = [3]",
    "policy = 'uniform+fixed'\nbudget = '50%'\nfusion_layer = 2\nkeep = [3]\nexit_from = 6",
];

/// The prefill of the crate on the engine in double precision.
fn in_double(
    reference: &Reference,
    inputs: &Inputs,
    text: &[f32],
    policy: &PolicyConfig,
) -> (PrefillTrace, Vec<f64>) {
    let vision: Vec<f32> = inputs
        .prompt
        .iter()
        .filter_map(|input| match input {
            Input::Embedding(row) => Some(row.iter().map(|&x| x as f32)),
            Input::Token(_) => None,
        })
        .flatten()
        .collect();
    let cuts = policy.cuts(reference.n_layer);
    let params = PrefillParams {
        layout: &inputs.layout,
        n_layer: reference.n_layer,
        cuts: &cuts,
        max_rows_per_call: 512,
        max_rows_per_attention_probe: 512,
        probe_stride: 1,
        causal_images: true,
        embeddings: Some(Embeddings {
            n_embd: reference.n_embd,
            vision: &vision,
            text: Some(text),
        }),
        shared: Shared::default(),
    };
    let mut engine = Dropping::new(reference, &inputs.prompt);
    let mut stages = policy.build(reference.n_layer, &inputs.layout).unwrap();
    let trace = prefill(&mut engine, &params, stages.as_mut()).unwrap();
    (trace, engine.logits())
}

/// The token embeddings of the text rows, as the reference reads them from the file.
fn text_embeddings(reference: &Reference, inputs: &Inputs) -> Vec<f32> {
    let text = inputs
        .prompt
        .iter()
        .filter(|input| matches!(input, Input::Token(_)));
    text.flat_map(|input| reference.embed(input))
        .map(|x| x as f32)
        .collect()
}

fn numbers(tokens: &[visipruner::policy::VisionIndex]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

#[test]
fn the_engine_drops_and_reads_what_the_definition_says() {
    let questions = [
        Question::new("Look: <image> What colour is it? It is", 3, 40),
        Question::new(
            "One <image> and two <image> and text enough to fill more than one small batch. Which? ",
            4,
            40,
        ),
    ];
    for llm in [
        RandomLlm::new(Arch::Llama, 31),
        RandomLlm {
            n_head_kv: 1,
            ..RandomLlm::new(Arch::Llama, 32)
        },
    ] {
        let mut fixture = Fixture::random(&llm);
        for (question, setup) in questions
            .iter()
            .flat_map(|question| [(question, F32), (question, F32_SMALL_BATCHES)])
        {
            let (prompt, layout) = fixture.prompt(question);
            let inputs = Inputs { prompt, layout };
            let text = text_embeddings(&fixture.reference, &inputs);
            for toml in POLICIES {
                let policy = PolicyOverrides::from_toml(toml)
                    .unwrap()
                    .apply(&PolicyConfig::Off)
                    .unwrap();
                let name = format!("{} images, -ub {}, {toml}", question.images.len(), setup.n_ubatch);
                let (trace, logits) = in_double(&fixture.reference, &inputs, &text, &policy);
                let report = fixture.run(question, &policy, setup);

                assert_eq!(report.entered, trace.entered.as_deref().map(numbers), "{name}");
                assert_eq!(report.kept, trace.kept.as_deref().map(numbers), "{name}");
                let drops: Vec<DropReport> = trace.drops.iter().map(DropReport::from).collect();
                assert_eq!(report.drops, drops, "{name}");
                assert_eq!(report.exit_layer, trace.exit_layer, "{name}");
                for (layer, expected) in report.layers.iter().zip(&trace.layers) {
                    let name = format!("{name}, layer {}", layer.layer);
                    assert_eq!(
                        (layer.rows, layer.kv),
                        (expected.n_rows, expected.n_rows),
                        "{name}"
                    );
                    let weight = expected.weights.as_ref().map(|weights| weights.weight.clone());
                    assert_eq!(layer.attention.is_some(), weight.is_some(), "{name}");
                    assert_near(
                        &layer.attention.clone().unwrap_or_default(),
                        &weight.unwrap_or_default(),
                        1e-5,
                        &name,
                    );
                }
                let actual: Vec<f64> = report.logits.iter().flatten().map(|&x| x.into()).collect();
                assert_near(&actual, &logits, setup.logits, &name);
            }
        }
    }
}
