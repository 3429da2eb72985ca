//! What an inspection measures in every layer, against its definition: attention, contributions, sizes of values, and the
//! words of both lenses.

use visipruner::engine::{CancelHandle, Error, Inspector, encode};
use visipruner::inspect::{InspectedLayer, Word};

use super::common::reference::LayerRun;
use super::*;

const N_WORDS: usize = 4;

fn options(setup: Setup) -> SessionOptions {
    SessionOptions {
        n_ctx: Some(512),
        n_threads: Some(1),
        n_ubatch: setup.n_ubatch,
        flash_attn: setup.flash_attn,
        type_k: setup.kv_type,
        type_v: setup.kv_type,
        ..SessionOptions::default()
    }
}

fn inspected(fixture: &mut Fixture, question: &Question, setup: Setup) -> Vec<InspectedLayer> {
    let mut inspector = Inspector::new(&fixture.model, options(setup)).unwrap();
    let request = Request {
        images: question.images.clone(),
        ..Request::new(Prompt::Raw(Part::split(&question.text, &IMAGE_MARKERS)))
    };
    let prompt = encode(&fixture.model, Some(&mut fixture.projector), &request, |_| {
        Continue(())
    });
    let prompt = prompt.unwrap().expect("nothing stopped it");
    let nobody = CancelHandle::default();
    let layers = inspector
        .layers(&prompt, N_WORDS, &nobody, |_| Continue(()))
        .unwrap();
    layers.expect("nothing stopped it")
}

#[track_caller]
fn assert_near(name: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(1.0, |max: f64, x| max.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs() / scale;
        assert!(off <= tolerance, "{name}, entry {i}: {found}, not {expected}");
    }
}

/// The likeliest words of a row of logits; words are compared where the next one is clearly less likely.
#[track_caller]
fn assert_words(name: &str, found: &[Word], logits: &[f64], fixture: &Fixture, tolerance: f64) {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let share = |token: usize| (logits[token] - max).exp() / sum;
    assert_eq!(found.len(), N_WORDS, "{name}");
    for (place, word) in found.iter().enumerate() {
        let expected = share(order[place]);
        assert!(
            (word.probability - expected).abs() <= 2.0 * tolerance * expected,
            "{name}, word {place}: {} is not {expected}",
            word.probability
        );
        let near = |other: usize| (logits[order[place]] - logits[order[other]]).abs() < 2.0 * tolerance;
        if near(place + 1) || (place > 0 && near(place - 1)) {
            continue;
        }
        let text = fixture.model.detokenize(&[order[place] as i32], true);
        assert_eq!(word.text, text, "{name}, word {place}");
    }
}

fn compare_layer(
    name: &str,
    fixture: &Fixture,
    (il, layer): (usize, &InspectedLayer),
    expected: &LayerRun,
    layout: &PromptLayout,
    setup: Setup,
) {
    let reference = &fixture.reference;
    let mean = |row: usize| {
        let sum: f64 = expected.weights.iter().map(|head| head[row]).sum();
        sum / reference.n_head as f64
    };
    let l1 = |row: usize| {
        let cell = expected.cells[row].as_ref().expect("the cache holds every row");
        cell.v.iter().flatten().map(|v| v.abs()).sum::<f64>() / reference.n_head_kv as f64
    };
    let vision: Vec<usize> = layout.vision.iter().flat_map(Clone::clone).collect();
    let text: Vec<usize> = (0..layout.n_rows).filter(|row| !vision.contains(row)).collect();
    let of =
        |rows: &[usize], value: &dyn Fn(usize) -> f64| rows.iter().map(|&row| value(row)).collect::<Vec<_>>();
    let near = |what: &str, found: &[f64], expected: &[f64]| {
        assert_near(&format!("{name}, {what}"), found, expected, setup.probe);
    };
    near("attention", &layer.attention, &of(&vision, &mean));
    near("norm", &layer.norm, &expected.norm);
    near("cos", &layer.cos, &expected.cos);
    near("output_norm", &[layer.output_norm], &[expected.output_norm]);
    near("value_l1", &layer.value_l1, &of(&vision, &l1));
    near("text_value_l1", &layer.text_value_l1, &of(&text, &l1));
    let words = |what: &str, found: &[Word], logits: &[f64]| {
        assert_words(&format!("{name}, {what}"), found, logits, fixture, setup.logits);
    };
    words("logit lens", &layer.top, &reference.logits(&expected.hidden));
    let lens = reference.value_output_lens(il, &expected.output);
    words("value-output lens", &layer.value_top, &lens);
}

#[test]
fn every_layer_is_measured_as_defined() {
    let questions = [
        Question::new("Look: <image> What colour is it? It is", 3, 40),
        Question::new(
            "One <image> and two <image> and text, more than a batch of 16. Which? ",
            4,
            40,
        ),
    ];
    for llm in [
        RandomLlm::new(Arch::Llama, 41),
        RandomLlm {
            n_head_kv: 1,
            ..RandomLlm::new(Arch::Llama, 42)
        },
    ] {
        let mut fixture = Fixture::random(&llm);
        for question in &questions {
            let (prompt, layout) = fixture.prompt(question);
            for setup in [F32, F32_SMALL_BATCHES, F16, F16_FLASH] {
                let precision = match setup.kv_type {
                    KvType::F32 => KvPrecision::Exact,
                    _ => KvPrecision::F16,
                };
                fixture.reference.kv_precision = precision;
                let layers = inspected(&mut fixture, question, setup);
                let dense = Rule::Policy(PolicyConfig::Off);
                let run = fixture.reference.run(&prompt, &layout, &dense);
                assert_eq!(layers.len(), run.layers.len());
                for (il, (layer, expected)) in layers.iter().zip(&run.layers).enumerate() {
                    let name = format!(
                        "{} images, {:?}, layer {il}",
                        question.images.len(),
                        setup.kv_type
                    );
                    compare_layer(&name, &fixture, (il, layer), expected, &layout, setup);
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_inspected_is_said() {
    let mut fixture = Fixture::random(&RandomLlm::new(Arch::Llama, 43));
    let quantized = Inspector::new(&fixture.model, options(Q8_0)).unwrap_err();
    assert!(
        quantized.to_string().contains("type_v is q8_0: expected f16"),
        "{quantized}"
    );

    let mut inspector = Inspector::new(&fixture.model, options(F32)).unwrap();
    for (text, reason) in [
        ("No picture at all", "no image"),
        ("At the end <image>", "ends in an image"),
    ] {
        let question = Question::new(text, 5, 40);
        let request = Request {
            images: question.images,
            ..Request::new(Prompt::Raw(Part::split(&question.text, &IMAGE_MARKERS)))
        };
        let prompt = encode(&fixture.model, Some(&mut fixture.projector), &request, |_| {
            Continue(())
        });
        let prompt = prompt.unwrap().expect("nothing stopped it");
        let nobody = CancelHandle::default();
        let error = inspector
            .layers(&prompt, 1, &nobody, |_| Continue(()))
            .unwrap_err();
        assert!(matches!(error, Error::NothingToInspect { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}
