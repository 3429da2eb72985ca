//! Conversations in the chat templates of published models, as transformers and the models' processors write them
//! (tests/transformers/templates.py).

use serde_json::Value;

use super::family::Surroundings;
use super::parts::{Exchange, Part, join_texts};
use super::template::{Conversation, Rendered, RenderedAnswer, Specials, apply};

fn fixture() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/transformers/fixtures/templates.json"
    );
    let text = std::fs::read_to_string(path).expect("a file");
    serde_json::from_str(&text).expect("JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a text")
}

fn parts(value: &Value) -> Vec<Part> {
    let parts = value.as_array().expect("a list").iter();
    parts
        .map(|part| {
            part.as_str()
                .map_or(Part::Image, |text| Part::Text(text.to_owned()))
        })
        .collect()
}

/// Questions and answers in turn, and the question that is to be answered.
fn turns(value: &Value) -> (Vec<Exchange>, Vec<Part>) {
    let turns = value["turns"].as_array().expect("turns");
    let (last, before) = turns.split_last().expect("a question");
    let exchange = |pair: &[Value]| Exchange {
        user: parts(&pair[0]),
        answer: pair[1].as_str().expect("an answer").to_owned(),
        tokens: None,
    };
    (before.chunks(2).map(exchange).collect(), parts(last))
}

/// A rendered conversation with its answers.
fn whole(rendered: Rendered) -> Vec<Part> {
    let of_turn = rendered.turns.into_iter().flat_map(|turn| {
        let answer = turn.answer.map(|answer| match answer {
            RenderedAnswer::Text(text) => Part::Text(text),
            RenderedAnswer::Tokens(_) => panic!("no tokens were given"),
        });
        turn.parts.into_iter().chain(answer)
    });
    join_texts(of_turn.collect())
}

#[test]
fn published_templates_are_rendered_as_by_transformers() {
    let fixture = fixture();
    let mut n_compared = 0;
    for (family, published) in fixture["templates"].as_object().expect("templates") {
        let specials = Specials {
            bos: text(published, "bos").to_owned(),
            eos: text(published, "eos").to_owned(),
            adds_bos: false,
        };
        let surroundings = Surroundings::of_type(text(published, "projector"));
        for (name, conversation) in fixture["conversations"].as_object().expect("conversations") {
            let (history, user) = turns(conversation);
            let conversation = Conversation {
                system: conversation["system"].as_str(),
                history: &history,
                user: &user,
            };
            let rendered = apply(
                text(published, "template"),
                &specials,
                &conversation,
                surroundings,
            );
            let expected = parts(&published["conversations"][name]);
            assert_eq!(rendered.map(whole).as_ref(), Ok(&expected), "{family}: {name}");
            n_compared += 1;
        }
    }
    assert!(n_compared >= 7 * 11, "{n_compared}");
}
