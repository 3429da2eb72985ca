//! Asks a question about a picture: `cargo run --release --example embed -- model.gguf mmproj.gguf picture.png [question]`

use std::io::Write;
use std::ops::ControlFlow::Continue;

use visipruner::engine::{
    Event, Image, Model, ModelOptions, Projector, ProjectorOptions, Prompt, Request, Session, SessionOptions,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::VisiPrunerConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, mmproj, picture, rest @ ..] = args.as_slice() else {
        return Err("usage: embed MODEL MMPROJ PICTURE [QUESTION]".into());
    };
    let pixels = image::open(picture)?.to_rgb8();
    let image = Image::from_rgb8(pixels.width(), pixels.height(), pixels.into_raw())?;

    let model = Model::load(model, &ModelOptions::default(), |_| Continue(()))?;
    let mut projector = Projector::load(mmproj, &model, &ProjectorOptions::default(), |_| Continue(()))?;
    let policy = PolicyConfig::VisiPruner(VisiPrunerConfig::default());
    let mut session = Session::new(
        &model,
        SessionOptions {
            policy,
            ..SessionOptions::default()
        },
    )?;

    let question = rest.first().map_or("What is in the picture?", String::as_str);
    let request = Request {
        images: vec![image],
        ..Request::new(Prompt::chat(question))
    };
    let outcome = session.generate(Some(&mut projector), &request, |event| {
        if let Event::Text(text) = event {
            print!("{text}");
            let _ = std::io::stdout().flush();
        }
        Continue(())
    })?;
    println!("\n{}", visipruner::report::summary::two_lines(&outcome.report));
    Ok(())
}
