//! Accuracy with and without pruning, on a set of questions (`models/train/make_eval.py` writes one):
//!
//! `cargo run --release --example accuracy -- model.gguf mmproj.gguf policy.toml questions.jsonl`
//!
//! Each line of the file is `{"image": …, "question": …, "answers": […], "category": …}`, with image paths relative to
//! the file. An answer is right if it is one of `answers`, to the letter. "blank" shows grey instead of the picture:
//! what is left can be guessed from the question.

use std::collections::BTreeMap;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use visipruner::engine::{
    Image, Model, ModelOptions, Projector, ProjectorOptions, Prompt, Request, Session, SessionOptions,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::PolicyOverrides;
use visipruner::report::RunReport;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Deserialize)]
struct Question {
    image: PathBuf,
    question: String,
    answers: Vec<String>,
    category: String,
}

/// Right answers of one category.
#[derive(Default)]
struct Score {
    n: usize,
    dense: usize,
    pruned: usize,
    blank: usize,
    agree: usize,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, mmproj, policy, questions] = args.as_slice() else {
        return Err("usage: accuracy MODEL MMPROJ POLICY_FILE QUESTIONS".into());
    };
    let model = Model::load(model, &ModelOptions::default(), |_| Continue(()))?;
    let mut projector = Projector::load(mmproj, &model, &ProjectorOptions::default(), |_| Continue(()))?;
    let policy = PolicyOverrides::from_file(Path::new(policy))?.apply(&PolicyConfig::Off)?;
    let mut dense = session(&model, PolicyConfig::Off)?;
    let mut pruned = session(&model, policy)?;

    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    let mut saved = Saved::default();
    for line in std::fs::read_to_string(questions)?.lines() {
        let question: Question = serde_json::from_str(line)?;
        let picture = read_picture(&Path::new(questions).with_file_name(&question.image))?;
        let grey = Image::from_rgb8(picture.width(), picture.height(), vec![122; picture.data().len()])?;
        let mut ask =
            |session: &mut Session, image: &Image| ask(session, &mut projector, image, &question.question);
        let (answer, _) = ask(&mut dense, &picture)?;
        let (pruned_answer, report) = ask(&mut pruned, &picture)?;
        let (blank_answer, _) = ask(&mut dense, &grey)?;
        saved.add(&report);

        let is_right = |answer: &String| usize::from(question.answers.contains(answer));
        for category in [question.category.as_str(), "all"] {
            let score = scores.entry(category.to_owned()).or_default();
            score.n += 1;
            score.dense += is_right(&answer);
            score.pruned += is_right(&pruned_answer);
            score.blank += is_right(&blank_answer);
            score.agree += usize::from(answer == pruned_answer);
        }
    }
    print(&scores, &saved);
    Ok(())
}

fn session(model: &Model, policy: PolicyConfig) -> Result<Session> {
    Ok(Session::new(
        model,
        SessionOptions {
            policy,
            ..SessionOptions::default()
        },
    )?)
}

fn read_picture(path: &Path) -> Result<Image> {
    let pixels = image::open(path)?.to_rgb8();
    Ok(Image::from_rgb8(
        pixels.width(),
        pixels.height(),
        pixels.into_raw(),
    )?)
}

fn ask(
    session: &mut Session,
    projector: &mut Projector,
    image: &Image,
    question: &str,
) -> Result<(String, RunReport)> {
    let request = Request {
        images: vec![image.clone()],
        n_predict: 24,
        ..Request::new(Prompt::chat(question))
    };
    let outcome = session.generate(Some(projector), &request, |_| Continue(()))?;
    Ok((outcome.text.trim().to_owned(), outcome.report))
}

/// What pruning saved, summed over the questions.
#[derive(Default)]
struct Saved {
    n: usize,
    n_pruned: usize,
    vision_rows: usize,
    dense_vision_rows: usize,
    kept: usize,
    kv_bytes: [u64; 2],
    vision_attention: [u64; 2],
}

impl Saved {
    fn add(&mut self, report: &RunReport) {
        let n_vision: usize = report.image_spans.iter().map(|[_, len]| len).sum();
        let n_text = report.n_tokens - n_vision;
        self.n += 1;
        self.n_pruned += usize::from(report.skipped.is_none());
        self.vision_rows += report
            .layers
            .iter()
            .map(|layer| layer.rows - n_text)
            .sum::<usize>();
        self.dense_vision_rows += n_vision * report.n_layer;
        self.kept += report.chosen().map_or(n_vision, <[u32]>::len);
        self.kv_bytes[0] += report.kv_bytes.dense;
        self.kv_bytes[1] += report.kv_bytes.actual;
        self.vision_attention[0] += report.flops.vision_attention.dense;
        self.vision_attention[1] += report.flops.vision_attention.actual;
    }
}

fn print(scores: &BTreeMap<String, Score>, saved: &Saved) {
    println!(
        "{:<10} {:>5} {:>8} {:>8} {:>8} {:>8}",
        "category", "n", "dense", "pruned", "agree", "blank"
    );
    for (category, score) in scores {
        let percent = |n: usize| 100.0 * n as f64 / score.n as f64;
        println!(
            "{category:<10} {:>5} {:>7.1}% {:>7.1}% {:>7.1}% {:>7.1}%",
            score.n,
            percent(score.dense),
            percent(score.pruned),
            percent(score.agree),
            percent(score.blank)
        );
    }
    let percent = |[dense, actual]: [u64; 2]| 100.0 * actual as f64 / dense as f64;
    println!(
        "pruned {} of {}; on average {:.1} vision tokens go on; vision rows {:.0}%, KV bytes {:.0}%, vision attention {:.0}% of dense",
        saved.n_pruned,
        saved.n,
        saved.kept as f64 / saved.n as f64,
        percent([saved.dense_vision_rows as u64, saved.vision_rows as u64]),
        percent(saved.kv_bytes),
        percent(saved.vision_attention)
    );
}
