//! A policy of one's own: the centre of every picture enters the model.
//!
//! `cargo run --release --example custom_policy -- models/tiny-llava-shapes-f16.gguf
//! models/tiny-llava-shapes-mmproj-f16.gguf models/demo/shapes.png [question]`

use std::ops::ControlFlow::Continue;

use visipruner::engine::{
    Image, Model, ModelOptions, Projector, ProjectorOptions, Prompt, Request, Session, SessionOptions,
};
use visipruner::policy::{
    Decision, Embeddings, Outcome, Policy, PolicyError, PromptLayout, StagePolicy, VisionIndex,
};

/// For any prompt.
struct Centre;

impl Policy for Centre {
    fn name(&self) -> String {
        String::from("centre")
    }

    fn cuts(&self, _n_layer: usize) -> Vec<usize> {
        Vec::new() // no layer runs on other rows than the one before
    }

    fn build(&self, _n_layer: usize, layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, PolicyError> {
        Ok(Box::new(CentreOf(layout.clone())))
    }
}

/// For one prompt.
struct CentreOf(PromptLayout);

impl StagePolicy for CentreOf {
    /// Of each picture's grid of tokens, those that are at least a quarter of its side away from every edge.
    fn start(&mut self, present: &[VisionIndex], _embeddings: &Embeddings<'_>) -> Decision {
        let images = self.0.vision.iter();
        let in_centre = images.flat_map(|image| {
            let side = image.len().isqrt();
            let is_inside = move |i: usize| (side / 4..side - side / 4).contains(&i);
            (0..image.len()).map(move |i| is_inside(i / side) && is_inside(i % side))
        });
        let tokens = present.iter().copied().zip(in_centre);
        Decision::Keep(
            tokens
                .filter_map(|(token, inside)| inside.then_some(token))
                .collect(),
        )
    }

    fn outcome(&self) -> Outcome {
        Outcome::default()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, mmproj, picture, rest @ ..] = args.as_slice() else {
        return Err("usage: custom_policy MODEL MMPROJ PICTURE [QUESTION]".into());
    };
    let pixels = image::open(picture)?.to_rgb8();
    let image = Image::from_rgb8(pixels.width(), pixels.height(), pixels.into_raw())?;

    let model = Model::load(model, &ModelOptions::default(), |_| Continue(()))?;
    let mut projector = Projector::load(mmproj, &model, &ProjectorOptions::default(), |_| Continue(()))?;
    let mut session = Session::with_policy(&model, SessionOptions::default(), Centre)?;

    let question = rest.first().map_or("What is in the picture?", String::as_str);
    let request = Request {
        images: vec![image],
        ..Request::new(Prompt::chat(question))
    };
    let outcome = session.generate(Some(&mut projector), &request, |_| Continue(()))?;
    println!("{}", outcome.text);
    println!("{}", visipruner::report::summary::two_lines(&outcome.report));
    Ok(())
}
