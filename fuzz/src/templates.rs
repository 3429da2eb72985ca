//! Chat templates, with what they make of conversations.

use std::ops::ControlFlow::Continue;
use std::sync::OnceLock;

use visipruner::engine::{Error, Exchange, IMAGE_MARKERS, Image, Model, ModelOptions, Part, Prompt, Request};

use super::folder;

fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = folder::models().join("tiny-llava-shapes-f16.gguf");
        Model::load(path, &ModelOptions::default(), |_| Continue(())).expect("the model that ships")
    })
}

pub fn check(data: &[u8]) {
    let Ok(template) = std::str::from_utf8(data) else {
        return;
    };
    for prompt in conversations() {
        let n_markers = prompt.n_markers();
        let mut request = Request::new(prompt);
        request.images = (0..n_markers).map(|_| pixel()).collect();
        request.chat_template = Some(template.to_owned());
        match model().prompt_text(None, &request) {
            // a template may drop or double a picture only with an error
            Ok(text) => assert_eq!(text.matches(IMAGE_MARKERS[0]).count(), n_markers, "{text:?}"),
            Err(error) => assert!(matches!(error, Error::Template { .. }), "{error}"),
        }
    }
}

fn pixel() -> Image {
    Image::from_rgb8(1, 1, vec![0; 3]).expect("a picture")
}

fn conversations() -> [Prompt; 3] {
    let text = |text: &str| Part::Text(text.to_owned());
    let turn = |user: Vec<Part>, answer: &str| Exchange {
        user,
        answer: answer.to_owned(),
        tokens: None,
    };
    let chat = |system: Option<&str>, history, user| Prompt::Chat {
        system: system.map(str::to_owned),
        history,
        user,
    };
    [
        chat(None, vec![], vec![Part::Image, text("What is this?")]),
        chat(
            Some("Be brief."),
            vec![turn(vec![Part::Image, text("a")], "b")],
            vec![text("c")],
        ),
        chat(
            None,
            vec![
                turn(vec![text("<s>{{ a }}")], "</s>"),
                turn(vec![text("b"), Part::Image], ""),
            ],
            vec![text("x"), Part::Image, text("y"), Part::Image],
        ),
    ]
}
