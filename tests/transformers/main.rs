//! Every family's pictures as transformers gives them to its language model: rows, tokens, logits (README.md).
#![cfg(all(feature = "native", feature = "cli"))]

use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use visipruner::engine::{
    EncodedPrompt, FlashAttention, IMAGE_MARKERS, Image, KvType, Model, ModelOptions, Part, Projector,
    ProjectorOptions, Prompt, Request, Sampling, Session, SessionOptions, encode,
};
use visipruner::policy::config::VisiPrunerConfig;
use visipruner::policy::{PolicyConfig, PolicyOverrides};
use visipruner::report::RunReport;

/// What F16 comes to, in standard deviations of the logits.
const TOLERANCE: f32 = 5e-3;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transformers/fixtures")
}

struct Family {
    folder: PathBuf,
    meta: Value,
    model: Model,
    projector: Projector,
}

impl Family {
    fn load(name: &str) -> Self {
        let folder = fixtures().join(name);
        let meta = std::fs::read_to_string(folder.join("meta.json")).expect("a file");
        let meta: Value = serde_json::from_str(&meta).expect("JSON");
        let file = |key: &str| folder.join(meta[key].as_str().expect("a path"));
        let model =
            Model::load(file("model"), &ModelOptions::default(), |_| Continue(())).expect("the model loads");
        let options = ProjectorOptions {
            n_threads: Some(1),
            flash_attn: FlashAttention::Off,
            ..ProjectorOptions::default()
        };
        let projector =
            Projector::load(file("mmproj"), &model, &options, |_| Continue(())).expect("the projector loads");
        Self {
            folder,
            meta,
            model,
            projector,
        }
    }

    fn encode(&mut self, prompt: &str, pictures: &[&str]) -> (Request, EncodedPrompt) {
        let prompt = self.meta[prompt].as_str().expect("a prompt");
        let request = Request {
            images: pictures.iter().map(|name| read(name)).collect(),
            n_predict: 1,
            sampling: Sampling {
                temp: 0.0,
                ..Sampling::default()
            },
            report_logits: true,
            ..Request::new(Prompt::Raw(Part::split(prompt, &IMAGE_MARKERS)))
        };
        let encoded = encode(&self.model, Some(&mut self.projector), &request, |_| Continue(()));
        let encoded = encoded.expect("it is encoded").expect("it is not stopped");
        (request, encoded)
    }

    fn check_tokens(&self, encoded: &EncodedPrompt, facts: &Value, what: &str) {
        let expected: Vec<i64> = facts["token_ids"]
            .as_array()
            .expect("tokens")
            .iter()
            .map(|token| token.as_i64().expect("a token"))
            .collect();
        let ours: Vec<i64> = encoded.tokens().iter().map(|&token| token.into()).collect();
        assert_eq!(ours, expected, "{what}");
    }

    fn check_logits(&self, session: &mut Session, asked: &(Request, EncodedPrompt), file: &str) {
        let ours = answer(session, asked).logits.expect("logits");
        let expected = read_npy(&self.folder.join(file));
        assert_close(&ours, &expected, &format!("{} {file}", self.folder.display()));
    }

    /// What policies drop, and what the model makes of the rest: transformers masks what is dropped here.
    fn check_dropping(&mut self) {
        let expected = read_npy(&self.folder.join("dropping.logits.npy"));
        let entries = self.meta["dropping"].as_array().expect("policies").clone();
        assert_eq!(entries.len(), 6);
        let n_vocab = expected.len() / entries.len();
        for (entry, expected) in entries.iter().zip(expected.chunks(n_vocab)) {
            let what = format!("{} {entry}", self.folder.display());
            let fields: PolicyOverrides = serde_json::from_value(entry["policy"].clone()).expect("fields");
            let policy = fields.apply(&PolicyConfig::Off).expect("a policy");
            let prompt = entry["prompt"].as_str().expect("a name");
            let asked = self.encode(prompt, &names(&entry["pictures"]));
            let report = answer(&mut session(&self.model, policy), &asked);
            let drops = report.drops.iter();
            let drops: Vec<Value> = drops
                .map(|drop| json!({"layer": drop.layer, "kept": drop.kept}))
                .collect();
            assert_eq!(Value::from(drops), entry["drops"], "{what}");
            assert_close(&report.logits.expect("logits"), expected, &what);
        }
    }
}

fn answer(session: &mut Session, (request, encoded): &(Request, EncodedPrompt)) -> RunReport {
    let outcome = session.generate_encoded(encoded, request, |_| Continue(()));
    outcome.expect("an answer").report
}

fn assert_close(ours: &[f32], expected: &[f32], what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    // the maximum passes over what is no number
    assert!(ours.iter().all(|logit| logit.is_finite()), "{what}");
    let most = ours.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let most = most.fold(0.0, f32::max) / deviation(expected);
    assert!(most <= TOLERANCE, "{what}: off by {most:.1e}");
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("names").iter();
    list.map(|name| name.as_str().expect("a name")).collect()
}

/// As stock llama.cpp runs the model, and cut before every layer but the first without anything being dropped.
fn sessions(model: &Model) -> [Session; 2] {
    let cut_everywhere = VisiPrunerConfig {
        shallow_mid_layer: 1,
        layer_threshold: -1.0,
        ..VisiPrunerConfig::default()
    };
    [PolicyConfig::Off, PolicyConfig::VisiPruner(cut_everywhere)].map(|policy| session(model, policy))
}

fn session(model: &Model, policy: PolicyConfig) -> Session {
    let options = SessionOptions {
        policy,
        n_threads: Some(1),
        flash_attn: FlashAttention::Off,
        type_k: KvType::F32,
        type_v: KvType::F32,
        ..SessionOptions::default()
    };
    Session::new(model, options).expect("a session")
}

fn check(family: &str) {
    let mut family = Family::load(family);
    let mut sessions = sessions(&family.model);
    let pictures = family.meta["pictures"].as_object().expect("pictures").clone();
    for (name, facts) in &pictures {
        let what = format!("{} {name}", family.folder.display());
        let asked = family.encode("prompt", &[name]);
        family.check_tokens(&asked.1, facts, &what);
        let expected = read_npy(&family.folder.join(format!("{name}.vision.npy")));
        check_rows(asked.1.embeddings(), &expected, facts, &what);
        let image = read(name);
        let n_tokens = family.projector.image_tokens(image.width(), image.height());
        assert_eq!(facts["n_rows"], n_tokens.expect("a number"), "{what}");
        for session in &mut sessions {
            family.check_logits(session, &asked, &format!("{name}.logits.npy"));
        }
    }
    let three = family.meta["three"].clone();
    let asked = family.encode("prompt_three", &names(&three["pictures"]));
    family.check_tokens(&asked.1, &three, "three pictures");
    for session in &mut sessions {
        family.check_logits(session, &asked, "three.logits.npy");
    }
    family.check_dropping();
}

/// Each vision row points where transformers' points.
fn check_rows(ours: &[f32], expected: &[f32], facts: &Value, what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let n_rows = facts["n_rows"].as_u64().expect("a number") as usize;
    let n_embd = expected.len() / n_rows;
    for (i, (a, b)) in ours.chunks(n_embd).zip(expected.chunks(n_embd)).enumerate() {
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
        let cos = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        assert!(cos >= 0.9999, "{what}, row {i}: cosine {cos:.6}");
    }
}

fn read(name: &str) -> Image {
    let picture = image::open(fixtures().join(format!("{name}.png"))).expect("a picture");
    let picture = picture.into_rgb8();
    Image::from_rgb8(picture.width(), picture.height(), picture.into_raw()).expect("pixels")
}

/// The numbers of a file of NumPy's, which are little-endian F32: behind 10 bytes and a header of the length that the last two
/// of them say.
fn read_npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("a file");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(bytes[10..10 + header].windows(5).any(|text| text == b"'<f4'"));
    let numbers = bytes[10 + header..].chunks_exact(4);
    numbers
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect()
}

fn deviation(values: &[f32]) -> f32 {
    let n = values.len() as f32;
    let mean = values.iter().sum::<f32>() / n;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / n).sqrt()
}

/// Pictures go into a template as typed pieces, and what the template writes for one is put there once.
#[test]
fn chats_in_published_templates_have_the_tokens_of_transformers_text() {
    let published = std::fs::read_to_string(fixtures().join("templates.json")).expect("a file");
    let published: Value = serde_json::from_str(&published).expect("JSON");
    for name in ["gemma3", "llava15", "pixtral", "qwen2vl", "smolvlm"] {
        let Family {
            model, mut projector, ..
        } = Family::load(name);
        let template = &published["templates"][name];
        let mut tokens = |prompt, chat_template: Option<&str>| {
            let request = Request {
                images: vec![read("56x56")],
                chat_template: chat_template.map(str::to_owned),
                ..Request::new(prompt)
            };
            let encoded = encode(&model, Some(&mut projector), &request, |_| Continue(()));
            encoded
                .expect("it is encoded")
                .expect("it is not stopped")
                .tokens()
                .to_vec()
        };
        let parts = template["conversations"]["picture"].as_array().expect("parts");
        // Some of these small models have another BOS, which their tokenizer adds.
        let bos = template["bos"].as_str().expect("a text");
        let is_token = model.tokenize(bos, false, true).expect("tokens").len() == 1;
        let raw = parts.iter().map(|part| match part.as_str() {
            Some(text) if is_token => Part::Text(text.to_owned()),
            Some(text) => Part::Text(text.replace(bos, "")),
            None => Part::Image,
        });
        let mut expected = tokens(Prompt::Raw(raw.collect()), None);
        // The text has BOS, and the tokenizer may add it.
        if expected[0] == expected[1] {
            expected.remove(0);
        }
        let chat = tokens(Prompt::chat("What is red?"), template["template"].as_str());
        assert_eq!(chat, expected, "{name}");
    }
}

/// A projector that looks its tokens up in the vocabulary, and one that writes them.
#[test]
fn a_projector_of_another_vocabulary_is_refused_or_told_of() {
    let mut family = Family::load("llava15");
    let options = ProjectorOptions::default();
    let load = |name: &str| {
        let mmproj = fixtures().join(name).join("mmproj.gguf");
        Projector::load(mmproj, &family.model, &options, |_| Continue(()))
    };
    let error = load("smolvlm").expect_err("its tokens are not there").to_string();
    for part in ["idefics3", "<fake_token_around_image>", "smolvlm", "llava15"] {
        assert!(error.contains(part), "{error}");
    }
    let mut foreign = load("pixtral").expect("it loads");
    let warnings = |model: &Model, projector: &mut Projector| {
        let request = Request {
            images: vec![read("56x56")],
            n_predict: 0,
            ..Request::new(Prompt::chat("What is red?"))
        };
        let mut session = Session::new(model, SessionOptions::default()).expect("a session");
        let outcome = session.generate(Some(projector), &request, |_| Continue(()));
        outcome.expect("an answer").report.warnings
    };
    let told = warnings(&family.model, &mut foreign).join("\n");
    assert!(told.contains("[IMG_END]") && told.contains("pixtral"), "{told}");
    let own = warnings(&family.model, &mut family.projector).join("\n");
    assert!(!own.contains("vocabulary"), "{own}");
}

macro_rules! families {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*
    };
}

families!(gemma3 internvl llava15 llava16 mobilevlm1 mobilevlm2 pixtral qwen25vl qwen2vl qwen3vl smolvlm);
