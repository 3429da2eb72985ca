//! The engine against the literal implementation of the method: pictures go in, and what comes out (the
//! fusion and exit layers, the kept set, rows and cells of every layer, the probes, logits and the tokens
//! decoded from what is left in the cache) is what the definition says, for every combination of stages.
#![cfg(feature = "native")]

#[path = "../common/mod.rs"]
mod common;
mod conversations;
#[cfg(feature = "lab")]
mod inspection;
mod policies;

use std::ops::ControlFlow::Continue;
use std::ops::Range;
use std::path::{Path, PathBuf};

use common::cases::{Case, Expected, Subject};
use common::random_model::{Arch, EOS, RandomLlm, RandomProjector};
use common::reference::{Decoded, Input, KvPrecision, Reference, Rule, Run};
use common::rng::Rng;
use visipruner::engine::{
    FlashAttention, IMAGE_MARKERS, Image, KvType, Model, ModelOptions, Part, Projector, ProjectorOptions,
    Prompt, Request, Session, SessionOptions,
};
use visipruner::gguf::{GgmlType, Gguf, GgufWriter};
use visipruner::policy::{PolicyConfig, PromptLayout};
use visipruner::report::{ProbeKind, RunReport};

/// How the engine computes, and how far from the definition that may take it.
#[derive(Debug, Clone, Copy)]
struct Setup {
    kv_type: KvType,
    flash_attn: FlashAttention,
    n_ubatch: u32,
    /// Largest difference of a logit (their standard deviation is about 2).
    logits: f64,
    /// Largest difference of a cosine, and of a norm (relative to the layer's largest, if above 1).
    probe: f64,
    /// Cases in which a statistic comes relatively nearer to its threshold than this are not compared.
    margin: f64,
    /// So many of ten cases, at least, must be compared.
    tenths: usize,
}

const F32: Setup = Setup {
    kv_type: KvType::F32,
    flash_attn: FlashAttention::Off,
    n_ubatch: 512,
    logits: 2e-4,
    probe: 2e-5,
    margin: 2e-4,
    tenths: 9,
};
const F32_SMALL_BATCHES: Setup = Setup { n_ubatch: 16, ..F32 };
const F16: Setup = Setup {
    kv_type: KvType::F16,
    logits: 0.03,
    probe: 2e-3,
    margin: 0.02,
    tenths: 7,
    ..F32
};
/// On the CPU, flash attention adds up F16 values in F16.
const F16_FLASH: Setup = Setup {
    flash_attn: FlashAttention::On,
    probe: 1e-2,
    ..F16
};

/// Keys and values of 8 bits: queries are rounded too, and ggml rotates values before it rounds them.
const Q8_0: Setup = Setup {
    kv_type: KvType::Q8_0,
    logits: 0.3,
    probe: 0.03,
    margin: 0.2,
    tenths: 3,
    ..F16_FLASH
};

const N_DECODE: usize = 32;

/// A model and its projector on disk, loaded by the engine and by the reference.
struct Fixture {
    model: Model,
    projector: Projector,
    reference: Reference,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn random(llm: &RandomLlm) -> Fixture {
        Fixture::with_projector(llm, &RandomProjector::new(llm.seed + 50, llm.n_embd()))
    }

    fn with_projector(llm: &RandomLlm, projector: &RandomProjector) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let (model, mmproj) = (folder.path().join("llm.gguf"), folder.path().join("mmproj.gguf"));
        llm.write(&model);
        projector.write(&mmproj);
        Fixture::load(&model, &mmproj, folder)
    }

    fn load(model_path: &Path, mmproj: &Path, folder: tempfile::TempDir) -> Fixture {
        let model = Model::load(model_path, &ModelOptions::default(), |_| Continue(())).unwrap();
        let options = ProjectorOptions {
            n_threads: Some(1),
            ..ProjectorOptions::default()
        };
        let projector = Projector::load(mmproj, &model, &options, |_| Continue(())).unwrap();
        Fixture {
            model,
            projector,
            reference: Reference::load(model_path),
            _folder: folder,
        }
    }

    fn run(&mut self, question: &Question, policy: &PolicyConfig, setup: Setup) -> RunReport {
        let options = SessionOptions {
            n_ctx: Some(512),
            n_threads: Some(1), // tests run side by side
            n_ubatch: setup.n_ubatch,
            flash_attn: setup.flash_attn,
            type_k: setup.kv_type,
            type_v: setup.kv_type,
            policy: policy.clone(),
            ..SessionOptions::default()
        };
        let mut session = Session::new(&self.model, options).unwrap();
        let request = Request {
            images: question.images.clone(),
            n_predict: N_DECODE,
            report_logits: true,
            report_probes: true,
            ..Request::new(Prompt::Raw(Part::split(&question.text, &IMAGE_MARKERS)))
        };
        session
            .generate(Some(&mut self.projector), &request, |_| Continue(()))
            .unwrap()
            .report
    }

    /// The prompt as the reference takes it: tokens as the engine reports them, pictures as the projector
    /// encodes them.
    fn prompt(&mut self, question: &Question) -> (Vec<Input>, PromptLayout) {
        let report = self.run(question, &PolicyConfig::Off, F32);
        let embd: Vec<f64> = question
            .images
            .iter()
            .flat_map(|image| self.projector.encode(image).unwrap())
            .map(f64::from)
            .collect();
        let prompt = inputs(&report.token_ids, embd.chunks(self.reference.n_embd));
        let vision = report
            .image_spans
            .iter()
            .map(|&[start, len]| start..start + len)
            .collect();
        (
            prompt,
            PromptLayout {
                n_rows: report.n_tokens,
                vision,
            },
        )
    }
}

/// Tokens, and the rows of pictures where there are none.
fn inputs<'r>(tokens: &[i32], mut embd: impl Iterator<Item = &'r [f64]>) -> Vec<Input> {
    let input = |&token: &i32| match usize::try_from(token) {
        Ok(token) => Input::Token(token),
        Err(_) => Input::Embedding(embd.next().expect("a row for every vision token").to_vec()),
    };
    tokens.iter().map(input).collect()
}

struct Question {
    text: String,
    images: Vec<Image>,
}

impl Question {
    fn new(text: &str, seed: u64, side: u32) -> Question {
        let n_images = text.matches("<image>").count() as u64;
        Question {
            text: text.to_owned(),
            images: (0..n_images).map(|i| picture(seed * 10 + i, side)).collect(),
        }
    }
}

/// Coloured rectangles on a coloured ground.
fn picture(seed: u64, side: u32) -> Image {
    let mut rng = Rng::new(seed);
    let mut colour = || [0; 3].map(|_: u8| rng.below(256) as u8);
    let mut pixels = vec![colour(); (side * side) as usize];
    let colours: Vec<[u8; 3]> = (0..4).map(|_| colour()).collect();
    for colour in colours {
        let mut place = || rng.below(side as usize * 3 / 4);
        let (x, y) = (place(), place());
        for row in y..y + side as usize / 4 {
            pixels[row * side as usize + x..][..side as usize / 4].fill(colour);
        }
    }
    Image::from_rgb8(side, side, pixels.concat()).unwrap()
}

/// Compares a run of the engine with the definition. A case that came too near to a threshold to be compared is an error
/// that says how near.
fn compare(
    fixture: &mut Fixture,
    question: &Question,
    case: &Case,
    setup: Setup,
    inputs: &Inputs,
) -> Result<(), String> {
    fixture.reference.kv_precision = match setup.kv_type {
        KvType::F32 => KvPrecision::Exact,
        _ => KvPrecision::F16,
    };
    let rule = Rule::Policy(case.policy.clone());
    let report = fixture.run(question, &case.policy, setup);
    let expected = fixture.reference.run(&inputs.prompt, &inputs.layout, &rule);
    if expected.margin < setup.margin {
        return Err(format!("{} ({:.1e})", case.name, expected.margin));
    }
    let name = format!("{}, {setup:?}", case.name);
    let happened = Expected {
        fusion: expected.fusion_layer.is_some(),
        exit: expected.exit_layer.is_some(),
    };
    assert_eq!(happened, case.expected, "{name}");
    compare_decisions(&report, &expected, &inputs.layout, &name);
    compare_layers(&report, &expected, setup, &name);
    let logits: Vec<f64> = report.logits.iter().flatten().map(|&x| x.into()).collect();
    assert_near(&logits, &expected.logits, setup.logits, &name);
    compare_decoded(&report, &expected.decode(N_DECODE), setup, &name);
    let kv_final: Vec<usize> = expected
        .n_cells()
        .iter()
        .map(|n| n + n_computed(&report))
        .collect();
    assert_eq!(report.kv_final, kv_final, "{name}");
    Ok(())
}

/// Generated tokens that were computed: the last one is not, if the answer ended by its length.
fn n_computed(report: &RunReport) -> usize {
    let n = report.generated.len();
    if n < N_DECODE { n } else { n - 1 }
}

fn compare_decisions(report: &RunReport, expected: &Run, layout: &PromptLayout, name: &str) {
    assert_eq!(report.fusion_layer, expected.fusion_layer, "{name}");
    assert_eq!(report.prune_from, expected.prune_from(), "{name}");
    assert_eq!(report.exit_layer, expected.exit_layer, "{name}");
    assert_eq!(report.exit_from, expected.exit_from(), "{name}");
    let kept = report
        .kept
        .as_ref()
        .map(|kept| kept.iter().map(|&token| token as usize).collect::<Vec<_>>());
    assert_eq!(kept, expected.kept, "{name}");
    let rows = layout.vision_rows();
    let positions = expected
        .kept
        .as_ref()
        .map(|kept| kept.iter().map(|&token| rows[token].0).collect::<Vec<_>>());
    assert_eq!(report.kept_pos, positions, "{name}");
    let are_all = expected.entered.len() == rows.len();
    let entered = (!are_all).then(|| indices(&expected.entered));
    assert_eq!(report.entered, entered, "{name}");
    let drops: Vec<_> = report
        .drops
        .iter()
        .map(|drop| (drop.layer, drop.kept.clone()))
        .collect();
    let expected: Vec<_> = expected
        .drops
        .iter()
        .map(|(after, kept)| (*after, indices(kept)))
        .collect();
    assert_eq!(drops, expected, "{name}");
}

/// As reports have them.
fn indices(tokens: &[usize]) -> Vec<u32> {
    tokens.iter().map(|&token| token as u32).collect()
}

fn compare_layers(report: &RunReport, expected: &Run, setup: Setup, name: &str) {
    assert_eq!(report.layers.len(), expected.layers.len());
    for (layer, (expected_layer, n_cells)) in report
        .layers
        .iter()
        .zip(expected.layers.iter().zip(expected.n_cells()))
    {
        let name = format!("{name}, layer {}", layer.layer);
        assert_eq!(layer.rows, expected_layer.n_rows, "{name}");
        assert_eq!(layer.kv, n_cells, "{name}");
        let is_ranked = layer.probe == Some(ProbeKind::Rank);
        assert_eq!(layer.attention.is_some(), is_ranked, "{name}");
        assert_eq!(layer.cos.is_some(), layer.probe.is_some() && !is_ranked, "{name}");
        if let Some(attention) = &layer.attention {
            assert_near(attention, &expected_layer.attention, setup.probe, &name);
        }
        if let (Some(cos), Some(norm)) = (&layer.cos, &layer.norm) {
            assert_near(cos, &expected_layer.cos, setup.probe, &name);
            let scale = expected_layer.norm.iter().copied().fold(1.0, f64::max);
            assert_near(norm, &expected_layer.norm, setup.probe * scale, &name);
        }
    }
}

/// The same tokens. Where rounding may swap the two most likely ones, what follows is another text and is not
/// compared.
fn compare_decoded(report: &RunReport, expected: &Decoded, setup: Setup, name: &str) {
    let n_decode = expected.tokens.len();
    let n_expected = expected
        .tokens
        .iter()
        .position(|&token| token == EOS)
        .unwrap_or(n_decode);
    let generated = report.generated.iter().map(|&token| token as usize).chain([EOS]);
    for (i, (token, &expected_token)) in generated.take(n_decode).zip(&expected.tokens).enumerate() {
        if token != expected_token {
            let logits = &expected.logits[i];
            let gap = logits[expected_token] - logits[token];
            assert!(
                gap < 2.0 * setup.logits,
                "{name}, token {i}: {token} instead of {expected_token}"
            );
            assert!(
                setup.kv_type != KvType::F32,
                "{name}: a tie in single precision, choose another seed"
            );
            return;
        }
    }
    assert_eq!(report.generated.len(), n_expected, "{name}");
}

fn assert_near(a: &[f64], b: &[f64], tolerance: f64, name: &str) {
    assert_eq!(a.len(), b.len(), "{name}");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= tolerance, "{name}, element {i}: {x} {y}");
    }
}

struct Inputs {
    prompt: Vec<Input>,
    layout: PromptLayout,
}

/// Compares what `cases` makes of a question in every setup.
fn compare_all(
    fixture: &mut Fixture,
    question: &Question,
    setups: &[Setup],
    n_keep: usize,
    cases: impl Fn(&Subject) -> Vec<Case>,
) {
    let (prompt, layout) = fixture.prompt(question);
    let inputs = Inputs { prompt, layout };
    let subject = Subject {
        reference: &fixture.reference,
        prompt: &inputs.prompt,
        layout: &inputs.layout,
        shallow_mid_layer: 2,
        n_keep,
    };
    let cases = cases(&subject);
    for setup in setups {
        let near: Vec<String> = cases
            .iter()
            .filter_map(|case| compare(fixture, question, case, *setup, &inputs).err())
            .collect();
        assert!(
            (cases.len() - near.len()) * 10 >= cases.len() * setup.tenths,
            "{setup:?}: {} of {} cases came too near to their thresholds: {near:?}",
            near.len(),
            cases.len()
        );
    }
}

const ONE_IMAGE: &str = "USER: <image>\nwhat is in the picture? ASSISTANT:";
const TWO_IMAGES: &str = "USER: <image> is the left one, <image> the other. what? ASSISTANT:";

fn gqa(seed: u64) -> RandomLlm {
    RandomLlm::new(Arch::Llama, seed)
}

#[test]
fn every_combination_on_a_random_gqa_model() {
    let mut fixture = Fixture::random(&gqa(21));
    let question = Question::new(ONE_IMAGE, 1, 32);
    compare_all(&mut fixture, &question, &[F32], 4, |subject| {
        subject.every_combination()
    });
}

#[test]
fn edges_on_a_random_gqa_model() {
    let mut fixture = Fixture::random(&gqa(22));
    let question = Question::new(ONE_IMAGE, 2, 32);
    compare_all(
        &mut fixture,
        &question,
        &[F32, F32_SMALL_BATCHES, F16, F16_FLASH, Q8_0],
        5,
        |subject| subject.edges(),
    );
}

#[test]
fn several_images_and_prompts_longer_than_a_batch() {
    let mut fixture = Fixture::random(&RandomLlm {
        n_head_kv: 1,
        ..gqa(23)
    });
    let question = Question::new(TWO_IMAGES, 3, 32);
    compare_all(&mut fixture, &question, &[F32_SMALL_BATCHES], 6, |subject| {
        subject.every_combination()
    });
    compare_all(&mut fixture, &question, &[F32_SMALL_BATCHES], 6, |subject| {
        subject.edges()
    });
}

#[test]
fn half_precision_with_and_without_flash_attention() {
    let mut fixture = Fixture::random(&RandomLlm {
        n_head_kv: 4,
        tied_output: true,
        ..gqa(24)
    });
    let question = Question::new(ONE_IMAGE, 4, 32);
    compare_all(&mut fixture, &question, &[F16, F16_FLASH], 4, |subject| {
        subject.every_combination()
    });
}

/// The model that ships. Its weights are as they are stored but in single precision, so that only the method is
/// compared.
fn shipped() -> Fixture {
    let (model, mmproj) = shipped_files().expect("models/ holds a language model and a projector");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("llm-f32.gguf");
    write_in_single_precision(&model, &copy);
    Fixture::load(&copy, &mmproj, folder)
}

#[test]
fn combinations_and_edges_on_the_shipped_model() {
    let mut fixture = shipped();
    let question = Question::new("USER: <image>\nWhat color is the circle? ASSISTANT:", 5, 112);
    compare_all(&mut fixture, &question, &[F32], 10, |subject| {
        // two of five: every variant of the shallow stage, each with another combination of the other stages
        let combinations = subject.every_combination().into_iter().enumerate();
        let mut cases: Vec<Case> = combinations
            .filter(|(i, _)| i % 5 < 2)
            .map(|(_, case)| case)
            .collect();
        cases.extend(subject.edges());
        cases
    });
}

/// The policy that was calibrated for the model, on the pictures and questions of the demo.
#[cfg(feature = "cli")]
#[test]
fn the_calibrated_policy_on_the_shipped_model() {
    use visipruner::policy::PolicyOverrides;

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut fixture = shipped();
    let overrides = PolicyOverrides::from_file(&folder.join("tiny-llava-shapes.policy.toml")).unwrap();
    let policy = overrides.apply(&PolicyConfig::Off).unwrap();
    let questions: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("demo/questions.json")).unwrap()).unwrap();
    let (mut n, mut n_compared, mut n_fused) = (0, 0, 0);
    for entry in questions.as_array().unwrap() {
        let pixels = image::open(folder.join("demo").join(entry["image"].as_str().unwrap()))
            .unwrap()
            .to_rgb8();
        let picture = Image::from_rgb8(pixels.width(), pixels.height(), pixels.into_raw()).unwrap();
        for question in entry["questions"].as_array().unwrap() {
            let text = format!(
                "USER: <image>\n{} ASSISTANT:",
                question["question"].as_str().unwrap()
            );
            let question = Question {
                text,
                images: vec![picture.clone()],
            };
            let (prompt, layout) = fixture.prompt(&question);
            let inputs = Inputs { prompt, layout };
            let rule = Rule::Policy(policy.clone());
            let run = fixture.reference.run(&inputs.prompt, &inputs.layout, &rule);
            let expected = Expected {
                fusion: run.fusion_layer.is_some(),
                exit: run.exit_layer.is_some(),
            };
            let case = Case {
                name: question.text.clone(),
                policy: policy.clone(),
                expected,
            };
            n += 1;
            n_fused += usize::from(expected.fusion);
            n_compared += usize::from(compare(&mut fixture, &question, &case, F32, &inputs).is_ok());
        }
    }
    assert!(n_fused * 2 > n, "only {n_fused} of {n} questions were pruned");
    assert!(
        n_compared * 2 > n,
        "only {n_compared} of {n} questions were far enough from their thresholds"
    );
}

/// The `.gguf` files in `models/`: language model and projector.
fn shipped_files() -> Option<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let ggufs: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .collect();
    let with_arch = |is_clip: bool| {
        let has = |path: &&PathBuf| {
            Gguf::open(path).is_ok_and(|gguf| {
                gguf.str("general.architecture")
                    .is_ok_and(|arch| (arch == "clip") == is_clip)
            })
        };
        ggufs.iter().find(has).cloned()
    };
    Some((with_arch(false)?, with_arch(true)?))
}

fn write_in_single_precision(from: &Path, to: &Path) {
    let gguf = Gguf::open(from).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.set(key, value.clone());
    }
    writer.set("general.file_type", 0u32);
    for tensor in gguf.tensors() {
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        writer.tensor(&tensor.name, &dims, GgmlType::F32);
    }
    writer
        .write_file(to, |tensor| gguf.read_tensor_f32(&tensor.name).unwrap())
        .unwrap();
}
