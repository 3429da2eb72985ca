//! Chat templates: the model's own, or LLaVA-1.5's.

use minijinja::context;
use minijinja::value::Value;

use super::dialect;
use super::parts::{Exchange, Part, join_texts};

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

/// A prompt as the template has it, turn by turn, with the places of the images.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) turns: Vec<RenderedTurn>,
    /// That LLaVA-1.5's template was used as the model has none, or why turns are not told apart.
    pub(crate) warning: Option<String>,
}

/// A stretch of a prompt that ends where an answer begins, and the answer that it got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RenderedTurn {
    pub(crate) parts: Vec<Part>,
    /// `None`: it is to be answered.
    pub(crate) answer: Option<RenderedAnswer>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RenderedAnswer {
    Text(String),
    Tokens(Vec<i32>),
}

/// What a template is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conversation<'a> {
    pub(crate) system: Option<&'a str>,
    pub(crate) history: &'a [Exchange],
    /// The message to be answered, with a place for each of its images.
    pub(crate) user: &'a [Part],
}

impl<'a> Conversation<'a> {
    /// The user's messages.
    fn users(&self) -> impl Iterator<Item = &'a [Part]> {
        let before = self.history.iter().map(|turn| turn.user.as_slice());
        before.chain([self.user])
    }

    /// The conversation as it was when its turn `i` was to be answered.
    fn until(&self, i: usize) -> Self {
        match self.history.get(i) {
            Some(turn) => Self {
                system: self.system,
                history: &self.history[..i],
                user: &turn.user,
            },
            None => *self,
        }
    }
}

/// Puts a conversation into `template`, or into LLaVA-1.5's if there is none: files of that model were written without.
///
/// # Errors
/// As [`apply`]: a prompt of another model's would only look like one.
pub(crate) fn apply_or_llava(
    template: Option<&str>,
    specials: &Specials,
    conversation: &Conversation<'_>,
) -> Result<Rendered, String> {
    if let Some(template) = template {
        return apply(template, specials, conversation);
    }
    let mut rendered = split_into_turns(conversation, &place_marker("", conversation), |turn, place| {
        llava(turn, place, &specials.eos)
    });
    rendered.warning = Some("the model has no chat template: LLaVA-1.5's is used".to_owned());
    Ok(rendered)
}

/// LLaVA-1.5's template: `USER: {message} ASSISTANT: {answer}</s>USER: {message} ASSISTANT:`.
fn llava(conversation: &Conversation<'_>, place: &str, eos: &str) -> String {
    let mut text = conversation
        .system
        .map_or_else(String::new, |system| format!("{system} "));
    for turn in conversation.history {
        let answer = turn.answer.trim();
        text.push_str(&format!(
            "USER: {} ASSISTANT: {answer}{eos}",
            with_places(&turn.user, place)
        ));
    }
    text + &format!("USER: {} ASSISTANT:", with_places(conversation.user, place))
}

/// Puts the messages into a template.
///
/// # Errors
/// The template's error in one line, or what it did with a message that must not happen to it.
pub(crate) fn apply(
    template: &str,
    specials: &Specials,
    conversation: &Conversation<'_>,
) -> Result<Rendered, String> {
    let template = template.strip_prefix('\u{feff}').unwrap_or(template);
    let place = place_marker(template, conversation);
    // Most templates take a message as text. Those of some image models want a list of typed pieces, and drop or
    // refuse a text: so the result is looked at.
    let render_all = |content: Content| -> Result<Vec<String>, String> {
        (0..=conversation.history.len())
            .map(|i| {
                let turn = conversation.until(i);
                let text = render(template, specials, &turn, &place, content)?;
                if holds(&text, &turn, &place) {
                    Ok(text)
                } else {
                    Err("it leaves out the message".to_owned())
                }
            })
            .collect()
    };
    let texts =
        render_all(Content::Text).or_else(|reason| render_all(Content::Pieces).map_err(|_| reason))?;
    // The tokenizer adds BOS; a template that writes it too would double it.
    let without_bos = |text: &str| match text.strip_prefix(&specials.bos) {
        Some(rest) if specials.adds_bos && !specials.bos.is_empty() => rest.to_owned(),
        _ => text.to_owned(),
    };
    let texts: Vec<String> = texts.iter().map(|text| without_bos(text)).collect();
    let mut i = 0;
    Ok(split_into_turns(conversation, &place, |_, _| {
        i += 1;
        texts[i - 1].clone()
    }))
}

/// A conversation turn by turn: `render` gives its text as it was when each turn was to be answered, in order. Where the
/// text of a turn is not the beginning of the next one's, followed by its answer, all is one turn.
fn split_into_turns(
    conversation: &Conversation<'_>,
    place: &str,
    mut render: impl FnMut(&Conversation<'_>, &str) -> String,
) -> Rendered {
    let texts: Vec<String> = (0..=conversation.history.len())
        .map(|i| render(&conversation.until(i), place))
        .collect();
    let mut turns = Vec::new();
    let mut rest = texts[0].as_str();
    for (turn, (text, next)) in conversation.history.iter().zip(texts.iter().zip(&texts[1..])) {
        let after = next.strip_prefix(text.as_str());
        let Some((answer, after)) = after.and_then(|after| split_after_answer(after, turn.answer.trim()))
        else {
            let whole = texts[texts.len() - 1].as_str();
            return Rendered {
                turns: vec![RenderedTurn {
                    parts: at_places(whole, place),
                    answer: None,
                }],
                warning: Some(
                    "the chat template changes earlier turns, so that the whole conversation is judged as one".to_owned(),
                ),
            };
        };
        let answer = match &turn.tokens {
            Some(tokens) => RenderedAnswer::Tokens(tokens.clone()),
            None => RenderedAnswer::Text(answer.to_owned()),
        };
        turns.push(RenderedTurn {
            parts: at_places(rest, place),
            answer: Some(answer),
        });
        rest = after;
    }
    turns.push(RenderedTurn {
        parts: at_places(rest, place),
        answer: None,
    });
    Rendered { turns, warning: None }
}

/// A text that begins with an answer, blanks before it aside: the answer with them, and what follows.
fn split_after_answer<'t>(text: &'t str, answer: &str) -> Option<(&'t str, &'t str)> {
    let blanks = text.len() - text.trim_start().len();
    let is_there = text[blanks..].starts_with(answer);
    is_there.then(|| text.split_at(blanks + answer.len()))
}

/// Whether a rendered prompt holds every message.
fn holds(rendered: &str, conversation: &Conversation<'_>, place: &str) -> bool {
    let parts = || conversation.users().flatten();
    let texts_are_there = parts().all(|part| match part {
        Part::Text(text) => rendered.contains(text.trim()),
        Part::Image => true,
    });
    let n_images = parts().filter(|part| **part == Part::Image).count();
    texts_are_there && rendered.matches(place).count() == n_images
}

/// How a template is given a message.
#[derive(Debug, Clone, Copy)]
enum Content {
    Text,
    Pieces,
}

impl Content {
    fn to_value(self, text: &str) -> Value {
        match self {
            Self::Text => Value::from(text),
            Self::Pieces => Value::from(vec![context! { type => "text", text => text }]),
        }
    }
}

fn render(
    template: &str,
    specials: &Specials,
    conversation: &Conversation<'_>,
    place: &str,
    content: Content,
) -> Result<String, String> {
    let message = |role: &str, text: &str| context! { role => role, content => content.to_value(text) };
    let mut messages: Vec<Value> = Vec::new();
    // Templates take a system message as text, whatever they do with the user's.
    messages.extend(
        conversation
            .system
            .map(|system| context! { role => "system", content => system }),
    );
    for turn in conversation.history {
        messages.push(message("user", &with_places(&turn.user, place)));
        messages.push(message("assistant", turn.answer.trim()));
    }
    messages.push(message("user", &with_places(conversation.user, place)));
    let variables = context! {
        messages,
        add_generation_prompt => true,
        bos_token => specials.bos.as_str(),
        eos_token => specials.eos.as_str(),
    };
    dialect::render(template, variables)
}

/// A text that stands for an image while the template runs: one that occurs nowhere else.
fn place_marker(template: &str, conversation: &Conversation<'_>) -> String {
    let taken = |marker: &str| {
        let texts = conversation.users().flatten().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image => None,
        });
        let answers = conversation.history.iter().map(|turn| turn.answer.as_str());
        texts
            .chain(answers)
            .chain(conversation.system)
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

    fn asked(user: &[Part]) -> Conversation<'_> {
        Conversation {
            system: None,
            history: &[],
            user,
        }
    }

    fn parts_of(rendered: Rendered) -> Vec<Part> {
        assert_eq!((rendered.turns.len(), &rendered.turns[0].answer), (1, &None));
        rendered.turns.into_iter().next().unwrap().parts
    }

    fn exchange(question: &str, answer: &str, tokens: Option<Vec<i32>>) -> Exchange {
        Exchange {
            user: vec![Part::Image, text(question)],
            answer: answer.to_owned(),
            tokens,
        }
    }

    #[test]
    fn a_conversation_turn_by_turn() {
        let history = [
            exchange("One?", "Yes, one.", None),
            exchange("Two?", " No. ", Some(vec![5, 6])),
        ];
        let user = [text("Three?")];
        let conversation = Conversation {
            system: None,
            history: &history,
            user: &user,
        };
        let turn = |parts: &[Part], answer| RenderedTurn {
            parts: parts.to_vec(),
            answer,
        };
        let own = apply(CHATML, &specials(), &conversation).unwrap();
        let assistant = |question: &str| text(&format!("{question}<|im_end|>\n<|im_start|>assistant\n"));
        let expected = [
            turn(
                &[text("<|im_start|>user\n"), Part::Image, assistant("One?")],
                Some(RenderedAnswer::Text("Yes, one.".to_owned())),
            ),
            turn(
                &[
                    text("<|im_end|>\n<|im_start|>user\n"),
                    Part::Image,
                    assistant("Two?"),
                ],
                Some(RenderedAnswer::Tokens(vec![5, 6])),
            ),
            turn(
                &[text(
                    "<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\n",
                )],
                None,
            ),
        ];
        assert_eq!((own.turns.as_slice(), own.warning), (expected.as_slice(), None));

        let llavas = apply_or_llava(None, &specials(), &conversation).unwrap();
        let expected = [
            turn(
                &[text("USER: "), Part::Image, text("One? ASSISTANT:")],
                Some(RenderedAnswer::Text(" Yes, one.".to_owned())),
            ),
            turn(
                &[text("</s>USER: "), Part::Image, text("Two? ASSISTANT:")],
                Some(RenderedAnswer::Tokens(vec![5, 6])),
            ),
            turn(&[text("</s>USER: Three? ASSISTANT:")], None),
        ];
        assert_eq!(llavas.turns, expected);
    }

    #[test]
    fn a_template_that_rewrites_earlier_turns_makes_one_of_all() {
        let template = "{% for message in messages %}{{ loop.revindex }} {{ message.content }}\n{% endfor %}";
        let history = [exchange("One?", "Yes.", None)];
        let user = [text("Two?")];
        let conversation = Conversation {
            system: None,
            history: &history,
            user: &user,
        };
        let rendered = apply(template, &specials(), &conversation).unwrap();
        assert_eq!(
            rendered.turns[0].parts,
            [text("3 "), Part::Image, text("One?\n2 Yes.\n1 Two?\n")]
        );
        assert_eq!(rendered.turns.len(), 1);
        assert!(rendered.warning.unwrap().contains("judged as one"));
    }

    #[test]
    fn the_models_own_template() {
        let rendered = apply_or_llava(Some(CHATML), &specials(), &asked(&question())).unwrap();
        assert_eq!(rendered.warning, None);
        let expected = [
            text("<|im_start|>user\n"),
            Part::Image,
            text("\nWhat is red?<|im_end|>\n<|im_start|>assistant\n"),
        ];
        assert_eq!(rendered.turns[0].parts, expected);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_template() {
        let user = question();
        let [with, without] = [format!("\u{feff}{CHATML}"), CHATML.to_owned()]
            .map(|template| apply(&template, &specials(), &asked(&user)).unwrap());
        assert_eq!(with, without);
    }

    #[test]
    fn bos_is_left_to_the_tokenizer_only_if_it_adds_it() {
        let specials = Specials {
            adds_bos: false,
            ..specials()
        };
        let parts = parts_of(apply(CHATML, &specials, &asked(&question())).unwrap());
        assert_eq!(parts[0], text("<s><|im_start|>user\n"));
    }

    #[test]
    fn a_system_message() {
        let parts = {
            let question = question();
            let asked = Conversation {
                system: Some("Be brief."),
                ..asked(&question)
            };
            parts_of(apply(CHATML, &specials(), &asked).unwrap())
        };
        assert_eq!(
            parts[0],
            text("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
        );
    }

    #[test]
    fn a_template_that_wants_typed_pieces() {
        let template = "{% for message in messages %}{% for piece in message.content | selectattr('type', 'equalto', \
                        'text') %}[{{ piece.text }}]{% endfor %}{% endfor %}";
        let parts = parts_of(apply(template, &specials(), &asked(&question())).unwrap());
        assert_eq!(parts, [text("["), Part::Image, text("\nWhat is red?]")]);
    }

    #[test]
    fn without_a_template_llavas() {
        let rendered = apply_or_llava(None, &specials(), &asked(&question())).unwrap();
        assert_eq!(
            rendered.turns[0].parts,
            [text("USER: "), Part::Image, text("\nWhat is red? ASSISTANT:")]
        );
        assert_eq!(
            rendered.warning.unwrap(),
            "the model has no chat template: LLaVA-1.5's is used"
        );
    }

    #[test]
    fn a_template_that_fails_says_why_and_is_not_replaced() {
        for (template, reason) in [
            ("{{ raise_exception('only with tools') }}", "only with tools"),
            ("{% for %}", "syntax error"),
            ("{{ 1 }}", "leaves out the message"),
        ] {
            let error = apply_or_llava(Some(template), &specials(), &asked(&question())).unwrap_err();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn marker_text_of_the_user_stays_text() {
        let user = [Part::Image, text("what is <__image_0__> or <image>?")];
        let parts = parts_of(apply("{{ messages[0].content }}", &specials(), &asked(&user)).unwrap());
        assert_eq!(parts, user);
    }
}
