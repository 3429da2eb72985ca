//! Chat templates: the model's own, or LLaVA-1.5's.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, context};

use super::prompt::{Part, join_texts};

/// What a template is given besides the messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Specials {
    /// Text of the BOS token.
    pub(crate) bos: String,
    /// Text of the EOS token.
    pub(crate) eos: String,
    /// Whether the tokenizer adds BOS itself.
    pub(crate) adds_bos: bool,
}

/// A prompt as the template has it, with the places of the images.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) parts: Vec<Part>,
    /// Why LLaVA-1.5's template was used instead of the model's own.
    pub(crate) warning: Option<String>,
}

/// Puts a system and a user message into `template`, or into LLaVA-1.5's if there is none or it fails.
pub(crate) fn apply_or_llava(
    template: Option<&str>,
    specials: &Specials,
    system: Option<&str>,
    user: &[Part],
) -> Rendered {
    let reason = match template.map(|template| apply(template, specials, system, user)) {
        Some(Ok(parts)) => {
            return Rendered { parts, warning: None };
        }
        Some(Err(reason)) => format!("the model's chat template failed ({reason})"),
        None => "the model has no chat template".to_owned(),
    };
    Rendered {
        parts: llava(system, user),
        warning: Some(format!("{reason}: LLaVA-1.5's is used")),
    }
}

/// LLaVA-1.5's template: `USER: {message} ASSISTANT:`.
fn llava(system: Option<&str>, user: &[Part]) -> Vec<Part> {
    let before = system.map_or_else(|| "USER: ".to_owned(), |system| format!("{system} USER: "));
    let mut parts = vec![Part::Text(before)];
    parts.extend_from_slice(user);
    parts.push(Part::Text(" ASSISTANT:".to_owned()));
    join_texts(parts)
}

/// Puts the messages into a template.
///
/// # Errors
/// The template's error in one line, or what it did with the message that must not happen to it.
pub(crate) fn apply(
    template: &str,
    specials: &Specials,
    system: Option<&str>,
    user: &[Part],
) -> Result<Vec<Part>, String> {
    let place = place_marker(template, system, user);
    let message = with_places(user, &place);
    let n_images = user.iter().filter(|part| **part == Part::Image).count();
    // Most templates take a message as text. Those of some image models want a list of typed pieces, and drop or
    // refuse a text: so the result is looked at.
    let as_text = render(template, specials, system, &Content::Text(&message));
    let rendered = match as_text {
        Ok(text) if holds(&text, user, &place, n_images) => text,
        as_text => {
            let as_pieces = render(template, specials, system, &Content::Pieces(&message))?;
            if !holds(&as_pieces, user, &place, n_images) {
                return Err(as_text
                    .err()
                    .unwrap_or_else(|| "it leaves out the message".to_owned()));
            }
            as_pieces
        }
    };
    // The tokenizer adds BOS; a template that writes it too would double it.
    let text = match rendered.strip_prefix(&specials.bos) {
        Some(rest) if specials.adds_bos && !specials.bos.is_empty() => rest,
        _ => &rendered,
    };
    Ok(at_places(text, &place))
}

/// Whether a rendered prompt holds the message.
fn holds(rendered: &str, user: &[Part], place: &str, n_images: usize) -> bool {
    let texts_are_there = user.iter().all(|part| match part {
        Part::Text(text) => rendered.contains(text.trim()),
        Part::Image => true,
    });
    texts_are_there && rendered.matches(place).count() == n_images
}

/// The content of a message.
enum Content<'a> {
    Text(&'a str),
    Pieces(&'a str),
}

impl Content<'_> {
    fn to_value(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(*text),
            Self::Pieces(text) => Value::from(vec![context! { type => "text", text => *text }]),
        }
    }
}

fn render(
    template: &str,
    specials: &Specials,
    system: Option<&str>,
    content: &Content<'_>,
) -> Result<String, String> {
    let system = system.map(|system| context! { role => "system", content => system });
    let user = context! { role => "user", content => content.to_value() };
    let messages: Vec<Value> = system.into_iter().chain([user]).collect();
    let variables = context! {
        messages,
        add_generation_prompt => true,
        bos_token => specials.bos.as_str(),
        eos_token => specials.eos.as_str(),
    };
    environment()
        .and_then(|environment| environment.render_str(template, variables))
        .map_err(|error| one_line(&error))
}

/// Steps that a template may take; real ones take a few hundred.
const FUEL: u64 = 1_000_000;

/// The dialect that chat templates are written in: transformers' `apply_chat_template`.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    Ok(environment)
}

fn one_line(error: &minijinja::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text that stands for an image while the template runs: one that occurs nowhere else.
fn place_marker(template: &str, system: Option<&str>, user: &[Part]) -> String {
    let taken = |marker: &str| {
        let texts = user.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image => None,
        });
        texts
            .chain(system)
            .chain([template])
            .any(|text| text.contains(marker))
    };
    let mut n = 0;
    loop {
        let marker = format!("<__image_{n}__>");
        if !taken(&marker) {
            return marker;
        }
        n += 1;
    }
}

fn with_places(user: &[Part], place: &str) -> String {
    let texts = user.iter().map(|part| match part {
        Part::Text(text) => text.as_str(),
        Part::Image => place,
    });
    texts.collect()
}

fn at_places(text: &str, place: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (i, text) in text.split(place).enumerate() {
        if i > 0 {
            parts.push(Part::Image);
        }
        parts.push(Part::Text(text.to_owned()));
    }
    join_texts(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                          message['content'].strip() + '<|im_end|>' + '\n' }}{% endfor %}\
                          {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn specials() -> Specials {
        Specials {
            bos: "<s>".to_owned(),
            eos: "</s>".to_owned(),
            adds_bos: true,
        }
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn question() -> Vec<Part> {
        vec![Part::Image, text("\nWhat is red?")]
    }

    #[test]
    fn the_models_own_template() {
        let rendered = apply_or_llava(Some(CHATML), &specials(), None, &question());
        assert_eq!(rendered.warning, None);
        let expected = [
            text("<|im_start|>user\n"),
            Part::Image,
            text("\nWhat is red?<|im_end|>\n<|im_start|>assistant\n"),
        ];
        assert_eq!(rendered.parts, expected);
    }

    #[test]
    fn bos_is_left_to_the_tokenizer_only_if_it_adds_it() {
        let specials = Specials {
            adds_bos: false,
            ..specials()
        };
        let parts = apply(CHATML, &specials, None, &question()).unwrap();
        assert_eq!(parts[0], text("<s><|im_start|>user\n"));
    }

    #[test]
    fn a_system_message() {
        let parts = apply(CHATML, &specials(), Some("Be brief."), &question()).unwrap();
        assert_eq!(
            parts[0],
            text("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
        );
    }

    #[test]
    fn a_template_that_wants_typed_pieces() {
        let template = "{% for message in messages %}{% for piece in message.content | selectattr('type', 'equalto', \
                        'text') %}[{{ piece.text }}]{% endfor %}{% endfor %}";
        let parts = apply(template, &specials(), None, &question()).unwrap();
        assert_eq!(parts, [text("["), Part::Image, text("\nWhat is red?]")]);
    }

    #[test]
    fn without_a_template_llavas() {
        let rendered = apply_or_llava(None, &specials(), None, &question());
        assert_eq!(
            rendered.parts,
            [text("USER: "), Part::Image, text("\nWhat is red? ASSISTANT:")]
        );
        assert_eq!(
            rendered.warning.unwrap(),
            "the model has no chat template: LLaVA-1.5's is used"
        );
    }

    #[test]
    fn a_template_that_fails_is_replaced_and_says_why() {
        for (template, reason) in [
            ("{{ raise_exception('only with tools') }}", "only with tools"),
            ("{% for %}", "syntax error"),
            ("{{ 1 }}", "leaves out the message"),
        ] {
            let rendered = apply_or_llava(Some(template), &specials(), None, &question());
            let warning = rendered.warning.unwrap();
            assert!(warning.contains(reason), "{warning}");
            assert!(!warning.contains('\n'), "{warning}");
            assert_eq!(rendered.parts[0], text("USER: "));
        }
    }

    #[test]
    fn marker_text_of_the_user_stays_text() {
        let user = [Part::Image, text("what is <__image_0__> or <image>?")];
        let parts = apply("{{ messages[0].content }}", &specials(), None, &user).unwrap();
        assert_eq!(parts, user);
    }
}
