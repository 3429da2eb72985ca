//! Chat templates: the model's own, or LLaVA-1.5's.

use super::content::{Content, Mark, holds_answers};
use super::family::Surroundings;
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
    pub(super) fn users(&self) -> impl Iterator<Item = &'a [Part]> {
        let before = self.history.iter().map(|turn| turn.user.as_slice());
        before.chain([self.user])
    }

    /// The conversation as it was when each of its turns was to be answered.
    fn asked(&self) -> impl Iterator<Item = Self> + use<'a> {
        let whole = *self;
        (0..=self.history.len()).map(move |i| whole.until(i))
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

    /// A text that occurs neither in the conversation nor in the other texts.
    pub(super) fn unused_marker(&self, name: &str, others: &[&str]) -> String {
        let is_taken = |marker: &str| {
            let users = self.users().flatten().filter_map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Image => None,
            });
            let answers = self.history.iter().map(|turn| turn.answer.as_str());
            let mut texts = users
                .chain(answers)
                .chain(self.system)
                .chain(others.iter().copied());
            texts.any(|text| text.contains(marker))
        };
        let mut n = 0;
        loop {
            let marker = format!("<__{name}_{n}__>");
            if !is_taken(&marker) {
                return marker;
            }
            n += 1;
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
    surroundings: Surroundings,
) -> Result<Rendered, String> {
    if let Some(template) = template {
        return apply(template, specials, conversation, surroundings);
    }
    let place = conversation.unused_marker("image", &[]);
    let texts = conversation
        .asked()
        .map(|turn| llava(&turn, &place, &specials.eos));
    let mut rendered = split_into_turns(conversation, &texts.collect::<Vec<_>>(), &place);
    rendered.warning = Some("the model has no chat template: LLaVA-1.5's is used".to_owned());
    Ok(rendered)
}

/// LLaVA-1.5's template: `USER: {message} ASSISTANT: {answer}</s>USER: {message} ASSISTANT:`.
fn llava(conversation: &Conversation<'_>, place: &str, eos: &str) -> String {
    let mark = Mark {
        place,
        own_lines: Surroundings::LLAVA.own_lines,
    };
    let mut text = conversation
        .system
        .map_or_else(String::new, |system| format!("{system} "));
    for turn in conversation.history {
        let answer = turn.answer.trim();
        text.push_str(&format!(
            "USER: {} ASSISTANT: {answer}{eos}",
            mark.text(&turn.user)
        ));
    }
    text + &format!("USER: {} ASSISTANT:", mark.text(conversation.user))
}

/// Puts the messages into a template.
///
/// # Errors
/// The template's error in one line, or what it did with a message that must not happen to it.
pub(crate) fn apply(
    template: &str,
    specials: &Specials,
    conversation: &Conversation<'_>,
    surroundings: Surroundings,
) -> Result<Rendered, String> {
    let template = template.strip_prefix('\u{feff}').unwrap_or(template);
    let place = conversation.unused_marker("image", &[template]);
    let mark = Mark {
        place: &place,
        own_lines: surroundings.own_lines,
    };
    let render_all = |content: &Content| -> Result<Vec<String>, String> {
        let turns = conversation.asked();
        turns
            .map(|turn| content.render(template, specials, &turn, mark))
            .collect()
    };
    let candidates = Content::candidates(template, specials);
    let texts = best(candidates.iter().map(render_all), conversation.history)?;
    // The tokenizer adds BOS; a template that writes it too would double it.
    let without_bos = |text: &str| match text.strip_prefix(&specials.bos) {
        Some(rest) if specials.adds_bos && !specials.bos.is_empty() => rest.to_owned(),
        _ => text.to_owned(),
    };
    let around = surroundings.around;
    let surrounded = format!("{around}{place}{around}");
    let texts = texts
        .iter()
        .map(|text| without_bos(text).replace(&place, &surrounded));
    Ok(split_into_turns(conversation, &texts.collect::<Vec<_>>(), &place))
}

/// The first rendering that holds the answers, too; without, the first that there is.
///
/// # Errors
/// That of the first rendering, if all of them failed.
fn best(
    renderings: impl Iterator<Item = Result<Vec<String>, String>>,
    history: &[Exchange],
) -> Result<Vec<String>, String> {
    let mut first: Option<Result<Vec<String>, String>> = None;
    for rendering in renderings {
        let whole = rendering.as_ref().ok().and_then(|texts| texts.last());
        if whole.is_some_and(|text| holds_answers(text, history)) {
            return rendering;
        }
        match &first {
            None => first = Some(rendering),
            Some(Err(_)) if rendering.is_ok() => first = Some(rendering),
            Some(_) => {}
        }
    }
    first.unwrap_or_else(|| Err("there is no way to give it a message".to_owned()))
}

/// A conversation turn by turn, from its text as it was when each turn was to be answered. Where the text of a turn is not
/// the beginning of the next one's, followed by its answer, all is one turn.
fn split_into_turns(conversation: &Conversation<'_>, texts: &[String], place: &str) -> Rendered {
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

    const NONE: Surroundings = Surroundings {
        around: "",
        own_lines: false,
    };

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
        let own = apply(CHATML, &specials(), &conversation, NONE).unwrap();
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

        let llavas = apply_or_llava(None, &specials(), &conversation, NONE).unwrap();
        let expected = [
            turn(
                &[text("USER: "), Part::Image, text("\nOne? ASSISTANT:")],
                Some(RenderedAnswer::Text(" Yes, one.".to_owned())),
            ),
            turn(
                &[text("</s>USER: "), Part::Image, text("\nTwo? ASSISTANT:")],
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
        let rendered = apply(template, &specials(), &conversation, NONE).unwrap();
        assert_eq!(
            rendered.turns[0].parts,
            [text("3 "), Part::Image, text("One?\n2 Yes.\n1 Two?\n")]
        );
        assert_eq!(rendered.turns.len(), 1);
        assert!(rendered.warning.unwrap().contains("judged as one"));
    }

    #[test]
    fn the_models_own_template() {
        let rendered = apply_or_llava(Some(CHATML), &specials(), &asked(&question()), NONE).unwrap();
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
            .map(|template| apply(&template, &specials(), &asked(&user), NONE).unwrap());
        assert_eq!(with, without);
    }

    #[test]
    fn bos_is_left_to_the_tokenizer_only_if_it_adds_it() {
        let specials = Specials {
            adds_bos: false,
            ..specials()
        };
        let parts = parts_of(apply(CHATML, &specials, &asked(&question()), NONE).unwrap());
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
            parts_of(apply(CHATML, &specials(), &asked, NONE).unwrap())
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
        let parts = parts_of(apply(template, &specials(), &asked(&question()), NONE).unwrap());
        assert_eq!(parts, [text("["), Part::Image, text("\nWhat is red?]")]);
    }

    #[test]
    fn without_a_template_llavas() {
        let rendered = apply_or_llava(None, &specials(), &asked(&question()), NONE).unwrap();
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
            let error = apply_or_llava(Some(template), &specials(), &asked(&question()), NONE).unwrap_err();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn marker_text_of_the_user_stays_text() {
        let user = [Part::Image, text("what is <__image_0__> or <image>?")];
        let parts = parts_of(apply("{{ messages[0].content }}", &specials(), &asked(&user), NONE).unwrap());
        assert_eq!(parts, user);
    }

    /// As LLaVA's, in typed pieces: pictures first.
    const TYPED: &str = "{% for message in messages %}{{ message.role }}: {% for piece in message.content | \
                         selectattr('type', 'equalto', 'image') %}<image>{% endfor %}{% for piece in message.content | \
                         selectattr('type', 'equalto', 'text') %}{{ piece.text }}{% endfor %}{{ '\n' }}{% endfor %}";

    #[test]
    fn a_templates_own_picture_in_texts_stays_text() {
        let history = [Exchange {
            user: vec![Part::Image, text("What is <image>?")],
            answer: "<image> is a tag.".to_owned(),
            tokens: None,
        }];
        let user = [text("Is <image> here: "), Part::Image];
        let conversation = Conversation {
            system: Some("No <image> in words."),
            history: &history,
            user: &user,
        };
        let rendered = apply(TYPED, &specials(), &conversation, NONE).unwrap();
        // This template marks no place where an answer begins, so all is one turn.
        let expected = [
            text("system: No <image> in words.\nuser: "),
            Part::Image,
            text("What is <image>?\nassistant: <image> is a tag.\nuser: "),
            Part::Image,
            text("Is <image> here: \n"),
        ];
        assert_eq!(parts_of(rendered), expected);
    }

    #[test]
    fn pictures_in_texts_have_the_lines_that_the_family_gives_them() {
        let rendered = |user: &[Part], surroundings| {
            parts_of(
                apply(
                    "[{{ messages[0].content }}]",
                    &specials(),
                    &asked(user),
                    surroundings,
                )
                .unwrap(),
            )
        };
        let gemma = Surroundings::of_type("gemma3");
        for (user, surroundings, expected) in [
            (
                vec![Part::Image, text("a")],
                NONE,
                vec![text("["), Part::Image, text("a]")],
            ),
            (
                vec![Part::Image, Part::Image, text("a")],
                Surroundings::LLAVA,
                vec![text("["), Part::Image, text("\n"), Part::Image, text("\na]")],
            ),
            (
                vec![Part::Image, text("\na")],
                Surroundings::LLAVA,
                vec![text("["), Part::Image, text("\na]")],
            ),
            (
                vec![Part::Image, text("a"), Part::Image],
                Surroundings::LLAVA,
                vec![text("["), Part::Image, text("a"), Part::Image, text("]")],
            ),
            (
                vec![Part::Image, text("a")],
                gemma,
                vec![text("[\n\n"), Part::Image, text("\n\na]")],
            ),
        ] {
            assert_eq!(rendered(&user, surroundings), expected, "{user:?}");
        }
    }

    #[test]
    fn a_template_that_leaves_out_what_the_model_is_told_is_refused() {
        let user = question();
        let conversation = Conversation {
            system: Some("Be brief."),
            ..asked(&user)
        };
        let template = "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}{% endif %}{% endfor %}";
        assert!(apply(template, &specials(), &asked(&user), NONE).is_ok());
        let error = apply(template, &specials(), &conversation, NONE).unwrap_err();
        assert!(error.contains("system message"), "{error}");
    }
}
