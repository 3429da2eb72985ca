//! The model that ships against the code that trained it: `models/fixtures` holds what that code's forward pass makes
//! of the demo pictures, with the weights rounded as in the files.
#![cfg(all(feature = "native", feature = "cli"))]

use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use visipruner::engine::{
    IMAGE_MARKERS, Image, KvType, Model, ModelOptions, Part, Projector, ProjectorOptions, Prompt,
    QuantizeOptions, Request, Session, SessionOptions, VisionEncoder, quantize,
};
use visipruner::gguf::FileType;
use visipruner::policy::{PolicyConfig, PolicyOverrides};
use visipruner::report::RunReport;

/// Vision tokens must point the way that training computed them, at least this exactly (F16 weights and activations).
const MIN_COSINE: f64 = 0.9999;
/// Largest difference of a logit: the files are F16, the training code computes in F32.
const MAX_LOGIT_ERROR: f32 = 0.05;

/// One question of `answers.json`.
#[derive(Deserialize)]
struct Answered {
    image: String,
    question: String,
    prompt: String,
    token_ids: Vec<i32>,
    image_spans: Vec<[usize; 2]>,
    answer: String,
    answer_ids: Vec<i32>,
    /// The largest logits of the last prompt token: token, logit.
    top_logits: Vec<(usize, f32)>,
}

struct Shipped {
    model: Model,
    projector: Projector,
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn load(encoder: VisionEncoder) -> Shipped {
    load_model(&models().join("tiny-llava-shapes-f16.gguf"), encoder)
}

fn load_model(model: &Path, encoder: VisionEncoder) -> Shipped {
    let model = Model::load(model, &ModelOptions::default(), |_| Continue(())).unwrap();
    let options = ProjectorOptions {
        n_threads: Some(1),
        encoder,
        ..ProjectorOptions::default()
    };
    let projector = models().join("tiny-llava-shapes-mmproj-f16.gguf");
    let projector = Projector::load(projector, &model, &options, |_| Continue(())).unwrap();
    Shipped { model, projector }
}

fn picture(path: &Path) -> Image {
    let pixels = image::open(path).unwrap().to_rgb8();
    Image::from_rgb8(pixels.width(), pixels.height(), pixels.into_raw()).unwrap()
}

fn answered() -> Vec<Answered> {
    let text = std::fs::read_to_string(models().join("fixtures/answers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The values of a NumPy file of little-endian 32-bit floats in C order.
fn read_npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let n_header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (header, values) = bytes[10..].split_at(n_header);
    let header = std::str::from_utf8(header).unwrap();
    assert!(
        header.contains("'<f4'") && header.contains("'fortran_order': False"),
        "{header}"
    );
    let values = values.chunks_exact(4);
    values
        .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
        .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The report of one question.
fn ask(shipped: &mut Shipped, session: &mut Session, answered: &Answered, prompt: Prompt) -> RunReport {
    let image = picture(&models().join("fixtures").join(&answered.image));
    let request = Request {
        images: vec![image],
        report_logits: true,
        ..Request::new(prompt)
    };
    let outcome = session.generate(Some(&mut shipped.projector), &request, |_| Continue(()));
    outcome.unwrap().report
}

fn session(shipped: &Shipped, policy: PolicyConfig) -> Session {
    let options = SessionOptions {
        policy,
        n_threads: Some(1),
        type_k: KvType::F32,
        type_v: KvType::F32,
        ..SessionOptions::default()
    };
    Session::new(&shipped.model, options).unwrap()
}

/// Cosine of each vision token of the demo pictures with what training computed.
fn cosines(encoder: VisionEncoder) -> Vec<f64> {
    let mut shipped = load(encoder);
    let n_embd = shipped.model.shape().n_embd as usize;
    let mut cosines = Vec::new();
    for name in ["shapes", "crosses", "trio"] {
        let expected = read_npy(&models().join(format!("fixtures/{name}.vision.npy")));
        let image = picture(&models().join(format!("demo/{name}.png")));
        let computed = shipped.projector.encode(&image).unwrap();
        assert_eq!(computed.len(), expected.len());
        let tokens = computed.chunks_exact(n_embd).zip(expected.chunks_exact(n_embd));
        cosines.extend(tokens.map(|(computed, expected)| cosine(computed, expected)));
    }
    cosines
}

#[test]
fn vision_tokens_are_those_of_the_training_code() {
    for (j, cosine) in cosines(VisionEncoder::Reference).into_iter().enumerate() {
        assert!(cosine >= MIN_COSINE, "vision token {j}: cosine {cosine}");
    }
}

/// Stock llama.cpp gives every patch its neighbour's position and projects the class token instead of a patch.
#[test]
fn stock_makes_other_vision_tokens() {
    let cosines = cosines(VisionEncoder::Upstream);
    let n_right = cosines.iter().filter(|&&cosine| cosine >= MIN_COSINE).count();
    assert!(
        n_right * 10 < cosines.len(),
        "{n_right} of {} are right",
        cosines.len()
    );
}

#[test]
fn prompts_logits_and_answers_are_those_of_the_training_code() {
    let mut shipped = load(VisionEncoder::Reference);
    let mut dense = session(&shipped, PolicyConfig::Off);
    for answered in answered() {
        let question = &answered.question;
        let report = ask(
            &mut shipped,
            &mut dense,
            &answered,
            Prompt::Raw(Part::split(&answered.prompt, &IMAGE_MARKERS)),
        );
        assert_eq!(report.token_ids, answered.token_ids, "{question}");
        assert_eq!(report.image_spans, answered.image_spans, "{question}");
        let logits = report.logits.unwrap();
        for &(token, expected) in &answered.top_logits {
            let error = (logits[token] - expected).abs();
            assert!(
                error < MAX_LOGIT_ERROR,
                "{question} logit of {token}: off by {error}"
            );
        }
        assert_eq!(report.generated, answered.answer_ids, "{question}");
        assert_eq!(report.text.trim(), answered.answer, "{question}");
    }
}

/// The model's own chat template makes the prompt that training made.
#[test]
fn the_chat_template_is_the_one_of_the_training_code() {
    let mut shipped = load(VisionEncoder::Reference);
    let mut dense = session(&shipped, PolicyConfig::Off);
    let answered = &answered()[0];
    let report = ask(
        &mut shipped,
        &mut dense,
        answered,
        Prompt::chat(&answered.question),
    );
    assert_eq!(report.token_ids, answered.token_ids);
}

/// The calibrated policy drops most vision tokens of every picture and changes hardly an answer.
#[test]
fn the_calibrated_policy_keeps_the_answers() {
    let mut shipped = load(VisionEncoder::Reference);
    let file = PolicyOverrides::from_file(&models().join("tiny-llava-shapes.policy.toml")).unwrap();
    let mut pruned = session(&shipped, file.apply(&PolicyConfig::Off).unwrap());
    let answered = answered();
    let mut n_right = 0;
    for answered in &answered {
        let report = ask(
            &mut shipped,
            &mut pruned,
            answered,
            Prompt::chat(&answered.question),
        );
        let n_vision = report.image_spans[0][1];
        let n_left = report.layers.last().unwrap().rows - (report.n_tokens - n_vision);
        assert_eq!(report.skipped, None, "{}", answered.question);
        assert!(
            n_left * 2 < n_vision,
            "{}: {n_left} of {n_vision} left",
            answered.question
        );
        n_right += usize::from(report.text.trim() == answered.answer);
    }
    assert!(
        n_right + 1 >= answered.len(),
        "{n_right} of {} answers",
        answered.len()
    );
}

/// Eight bits per weight change no answer of the demo's questions.
#[test]
fn quantized_to_q8_0_it_answers_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q8_0.gguf");
    let options = QuantizeOptions {
        n_threads: Some(1),
        ..QuantizeOptions::new(FileType::Q8_0)
    };
    let whole = models().join("tiny-llava-shapes-f16.gguf");
    quantize(whole, &path, &options, |_| Continue(())).unwrap();
    let mut quantized = load_model(&path, VisionEncoder::Reference);
    let mut dense = session(&quantized, PolicyConfig::Off);
    for answered in answered() {
        let report = ask(
            &mut quantized,
            &mut dense,
            &answered,
            Prompt::Raw(Part::split(&answered.prompt, &IMAGE_MARKERS)),
        );
        assert_eq!(report.text.trim(), answered.answer, "{}", answered.question);
    }
}
