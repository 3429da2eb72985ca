//! Questions about one picture, answered at the same time:
//! `cargo run --release --example many_questions -- model.gguf mmproj.gguf picture.png "first?" "second?"`
//!
//! The picture is read once; the answers go on together, a token of each in one batch.

use std::ops::ControlFlow::Continue;

use visipruner::engine::{
    Cache, Image, Model, ModelOptions, Projector, ProjectorOptions, Prompt, Request, SessionOptions, encode,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::VisiPrunerConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, mmproj, picture, questions @ ..] = args.as_slice() else {
        return Err("usage: many_questions MODEL MMPROJ PICTURE QUESTION...".into());
    };
    let pixels = image::open(picture)?.to_rgb8();
    let image = Image::from_rgb8(pixels.width(), pixels.height(), pixels.into_raw())?;

    let model = Model::load(model, &ModelOptions::default(), |_| Continue(()))?;
    let mut projector = Projector::load(mmproj, &model, &ProjectorOptions::default(), |_| Continue(()))?;
    let options = SessionOptions {
        policy: PolicyConfig::VisiPruner(VisiPrunerConfig::default()),
        n_sequences: questions.len().max(1) as u32,
        ..SessionOptions::default()
    };
    let mut cache = Cache::new(&model, &options)?;

    let mut answers = Vec::new();
    for question in questions {
        let request = Request {
            images: vec![image.clone()],
            ..Request::new(Prompt::chat(question))
        };
        let Some(prompt) = encode(&model, Some(&mut projector), &request, |_| Continue(()))? else {
            return Ok(()); // stopped, which nobody does here
        };
        answers.push(cache.begin(&prompt, &request, |_| Continue(()))?);
    }
    while answers.iter().any(|answer| answer.stop().is_none()) {
        cache.step(&mut answers.iter_mut().collect::<Vec<_>>())?;
    }
    for (question, answer) in questions.iter().zip(answers) {
        let outcome = cache.finish(answer);
        println!("{question}\n  {}", outcome.text.trim());
    }
    Ok(())
}
