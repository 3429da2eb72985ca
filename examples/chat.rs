//! A conversation about a picture: `cargo run --release --example chat -- model.gguf mmproj.gguf picture.png`
//!
//! Each line of standard input is a turn. The session remembers: a turn costs its own text, not the picture again.

use std::io::Write;
use std::ops::ControlFlow::Continue;

use visipruner::engine::{
    Event, Exchange, Image, Model, ModelOptions, Part, Projector, ProjectorOptions, Prompt, Request, Session,
    SessionOptions,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::VisiPrunerConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, mmproj, picture] = args.as_slice() else {
        return Err("usage: chat MODEL MMPROJ PICTURE".into());
    };
    let pixels = image::open(picture)?.to_rgb8();
    let image = Image::from_rgb8(pixels.width(), pixels.height(), pixels.into_raw())?;

    let model = Model::load(model, &ModelOptions::default(), |_| Continue(()))?;
    let mut projector = Projector::load(mmproj, &model, &ProjectorOptions::default(), |_| Continue(()))?;
    let options = SessionOptions {
        policy: PolicyConfig::VisiPruner(VisiPrunerConfig::default()),
        ..SessionOptions::default()
    };
    let mut session = Session::new(&model, options)?;

    let mut history = Vec::new();
    for line in std::io::stdin().lines() {
        let mut user = vec![Part::Text(line?)];
        if history.is_empty() {
            user.splice(0..0, [Part::Image, Part::Text("\n".to_owned())]);
        }
        let request = Request {
            images: vec![image.clone()],
            ..Request::new(Prompt::Chat {
                system: None,
                history: history.clone(),
                user: user.clone(),
            })
        };
        let outcome = session.generate(Some(&mut projector), &request, |event| {
            if let Event::Text(text) = event {
                print!("{text}");
                let _ = std::io::stdout().flush();
            }
            Continue(())
        })?;
        let report = &outcome.report;
        println!(
            "\n({} of {} rows were there)",
            report.reused_rows, report.n_tokens
        );
        history.push(Exchange {
            user,
            answer: outcome.text,
            tokens: Some(outcome.tokens),
        });
    }
    Ok(())
}
