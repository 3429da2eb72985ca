//! Answers: what they hold, and what they do not depend on.

use super::*;

#[test]
fn a_dense_answer() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions::default());
    let mut events = Vec::new();
    let outcome = session
        .generate(Some(&mut pair.projector), &question(), |event| {
            events.push(format!("{event:?}"));
            Continue(())
        })
        .expect("an answer");

    let report = &outcome.report;
    assert_eq!(outcome.stop, StopReason::Length);
    assert_eq!(outcome.tokens.len(), 12);
    assert_eq!(outcome.text, pair.model.detokenize(&outcome.tokens, false));
    assert_eq!(
        events.first().map(String::as_str),
        Some("Encode { done: 0, total: 3 }")
    );
    assert!(events.contains(&"Encode { done: 1, total: 3 }".to_owned()));
    assert!(events.contains(&"Encode { done: 3, total: 3 }".to_owned()));
    assert!(events.contains(&"Prefill(1.0)".to_owned()));
    assert_eq!(report.image_spans.len(), 1);
    assert_eq!(report.image_spans[0][1], 16);
    assert_eq!(report.token_ids.iter().filter(|&&token| token == -1).count(), 16);
    assert_eq!(report.n_tokens, report.token_ids.len());
    assert_eq!(report.skipped.as_deref(), Some("the policy is off"));
    assert_eq!(report.logits.as_ref().map(Vec::len), Some(pair.model.n_vocab()));
    assert!(
        report
            .layers
            .iter()
            .all(|layer| layer.rows == report.n_tokens && layer.kv == report.n_tokens)
    );
    // The last token that was chosen is never computed.
    assert_eq!(report.kv_final, vec![report.n_tokens + 11; report.n_layer]);
    assert_eq!(report.kv_bytes.dense, report.kv_bytes.actual);
    assert!(report.kv_bytes.dense > 0 && report.times_ms.encode > 0.0 && report.times_ms.total > 0.0);
}

#[test]
fn the_same_request_gets_the_same_answer_again() {
    let mut pair = Pair::new(Arch::Llama);
    for policy in [PolicyConfig::Off, fixed(2, 4, 5)] {
        let mut session = pair.session(SessionOptions {
            remember: false,
            ..with_policy(policy)
        });
        let first = session.answer(&mut pair.projector);
        let other = Request {
            images: vec![picture(50, 50, 2)],
            ..question()
        };
        let other = session
            .generate(Some(&mut pair.projector), &other, ignore)
            .expect("an answer");
        let again = session.answer(&mut pair.projector);
        assert_eq!(first.tokens, again.tokens);
        assert_eq!(first.report.logits, again.report.logits);
        assert_ne!(
            first.report.logits, other.report.logits,
            "the picture makes a difference"
        );
    }
}

#[test]
fn the_iterator_yields_what_the_callback_hears() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions::default());
    let mut heard = Vec::new();
    let outcome = session
        .generate(Some(&mut pair.projector), &question(), |event| {
            if let Event::Text(text) = event {
                heard.push(text.to_owned());
            }
            Continue(())
        })
        .expect("an answer");
    let mut answer = session
        .stream(Some(&mut pair.projector), &question())
        .expect("an answer");
    let streamed: Vec<_> = answer.by_ref().map(|text| text.expect("a piece")).collect();
    let streamed_outcome = answer.into_outcome();
    assert_eq!(streamed, heard);
    assert_eq!(heard.concat(), outcome.text);
    assert_eq!(streamed_outcome.text, outcome.text);
    assert_eq!(streamed_outcome.stop, outcome.stop);
}

#[test]
fn long_prompts_small_batches_and_several_images() {
    let mut pair = Pair::new(Arch::Llama);
    let filler = "a long story about colours. ".repeat(8);
    let request = Request {
        prompt: marked(&format!("{filler}<image> and {filler}<image> which? ")),
        images: vec![picture(32, 32, 3), picture(64, 20, 4)],
        ..question()
    };
    let mut tokens = Vec::new();
    for (n_batch, n_ubatch) in [(2048, 512), (64, 16), (33, 33)] {
        for policy in [PolicyConfig::Off, fixed(1, 6, 4)] {
            let options = SessionOptions {
                n_batch,
                n_ubatch,
                policy,
                ..SessionOptions::default()
            };
            let outcome = pair
                .session(options)
                .generate(Some(&mut pair.projector), &request, ignore)
                .expect("an answer");
            assert_eq!(outcome.report.image_spans.len(), 2);
            tokens.push(outcome.tokens);
        }
    }
    assert!(tokens.iter().step_by(2).all(|other| *other == tokens[0]));
    assert!(tokens.iter().skip(1).step_by(2).all(|other| *other == tokens[1]));
}

#[test]
fn every_kind_of_cache() {
    let mut pair = Pair::new(Arch::Llama);
    for flash_attn in [FlashAttention::Off, FlashAttention::On, FlashAttention::Auto] {
        for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for policy in [PolicyConfig::Off, fixed(2, 4, 5)] {
                let options = SessionOptions {
                    n_threads: Some(1),
                    flash_attn,
                    type_k: kv,
                    type_v: kv,
                    policy,
                    ..SessionOptions::default()
                };
                let session = Session::new(&pair.model, options);
                if kv.is_quantized() && flash_attn == FlashAttention::Off {
                    assert!(matches!(session, Err(Error::QuantizedValues { .. })));
                    continue;
                }
                let outcome = session
                    .expect("a session")
                    .generate(Some(&mut pair.projector), &question(), ignore)
                    .unwrap_or_else(|error| panic!("{flash_attn} {kv}: {error}"));
                assert_eq!(outcome.tokens.len(), 12);
            }
        }
    }
}

#[test]
fn text_alone_needs_no_projector() {
    let pair = Pair::new(Arch::Llama);
    for (policy, why) in [(PolicyConfig::Off, "off"), (fixed(2, 4, 5), "no image")] {
        let mut session = pair.session(with_policy(policy));
        let request = Request {
            n_predict: 4,
            ..Request::new(Prompt::raw("once upon"))
        };
        let outcome = session.generate(None, &request, ignore).expect("an answer");
        assert_eq!(outcome.tokens.len(), 4);
        assert!(outcome.report.skipped.is_some_and(|said| said.contains(why)));
    }
}

#[test]
fn drawing_is_reproducible_with_a_seed() {
    let pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions::default());
    let mut draw = |seed| {
        let sampling = Sampling {
            temp: 1.5,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(seed),
            ..Sampling::default()
        };
        let request = Request {
            sampling,
            n_predict: 16,
            ..Request::new(Prompt::raw("once upon"))
        };
        session
            .generate(None, &request, ignore)
            .expect("an answer")
            .tokens
    };
    let (one, again, two) = (draw(1), draw(1), draw(2));
    assert_eq!(one, again);
    assert_ne!(one, two);
}

#[test]
fn odd_pictures() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions::default());
    for (width, height) in [(1, 1), (20_000, 3), (3, 20_000), (2, 1), (Image::MAX_SIDE, 1)] {
        let request = Request {
            images: vec![picture(width, height, 5)],
            n_predict: 1,
            ..question()
        };
        assert_eq!(pair.projector.image_tokens(width, height).expect("a number"), 16);
        let outcome = session.generate(Some(&mut pair.projector), &request, ignore);
        let outcome = outcome.unwrap_or_else(|error| panic!("{width}x{height}: {error}"));
        assert!(
            outcome
                .report
                .logits
                .expect("logits")
                .iter()
                .all(|logit| logit.is_finite())
        );
    }
    assert!(matches!(
        pair.projector.image_tokens(0, 5),
        Err(Error::ImageSize { .. })
    ));
    assert!(matches!(
        pair.projector.image_tokens(5, u32::MAX),
        Err(Error::ImageSize { .. })
    ));
}

#[test]
fn marker_text_in_the_question_is_text() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions::default());
    let literal = Part::Text("what does <__media__> or <image> mean?".to_owned());
    let prompt = Prompt::Raw(vec![Part::Image, literal]);
    let outcome = session
        .generate(
            Some(&mut pair.projector),
            &Request { prompt, ..question() },
            ignore,
        )
        .expect("an answer");
    assert_eq!(outcome.report.image_spans, [[1, 16]]);
    let text = pair.model.detokenize(&outcome.report.token_ids[17..], true);
    assert_eq!(text.trim(), "what does <__media__> or <image> mean?");
}

#[test]
fn handles_outlive_what_they_came_from() {
    let Pair {
        folder,
        model,
        mut projector,
    } = Pair::new(Arch::Llama);
    let mut session = Session::new(&model, SessionOptions::default()).expect("a session");
    drop(model);
    drop(folder);
    let answer = std::thread::spawn(move || {
        session
            .generate(Some(&mut projector), &question(), ignore)
            .map(|outcome| outcome.tokens.len())
    });
    assert_eq!(answer.join().expect("the thread ends").expect("an answer"), 12);
}

#[test]
fn biases_and_penalties_change_what_is_chosen() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions::default());
    let ask = |session: &mut Session, projector: &mut Projector, sampling: Sampling| {
        let request = Request {
            sampling,
            n_predict: 12,
            ignore_eos: true,
            n_logprobs: Some(2),
            ..question()
        };
        session.generate(Some(projector), &request, ignore)
    };
    let plain = ask(&mut session, &mut pair.projector, Sampling::default()).expect("an answer");
    for (token, logprob) in plain.tokens.iter().zip(&plain.logprobs) {
        assert_eq!((logprob.token, logprob.top[0].0), (*token, *token));
        assert_eq!(logprob.top[0].1, logprob.logprob);
        assert!(logprob.top[1].1 <= logprob.logprob && logprob.logprob < 0.0);
    }
    assert_eq!(plain.logprobs.len(), 12);

    let banned = Sampling {
        logit_bias: vec![(plain.tokens[0], f32::NEG_INFINITY)],
        ..Sampling::default()
    };
    let other = ask(&mut session, &mut pair.projector, banned).expect("an answer");
    assert!(!other.tokens.contains(&plain.tokens[0]));
    assert_eq!(other.tokens[0], plain.logprobs[0].top[1].0, "the next likely one");

    let forced = Sampling {
        logit_bias: vec![(7, 1e4)],
        ..Sampling::default()
    };
    let forced = ask(&mut session, &mut pair.projector, forced).expect("an answer");
    assert_eq!(forced.tokens, [7; 12]);
    let varied = Sampling {
        logit_bias: vec![(7, 1e4)],
        presence_penalty: 100.0,
        frequency_penalty: 100.0,
        repeat_penalty: 100.0,
        ..Sampling::default()
    };
    let varied = ask(&mut session, &mut pair.projector, varied).expect("an answer");
    assert_eq!(varied.tokens.iter().filter(|&&token| token == 7).count(), 1);
    let mut distinct = varied.tokens.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 12, "no token comes twice");

    let n_vocab = pair.model.n_vocab() as i32;
    for (token, bias) in [(n_vocab, 1.0), (-1, 1.0), (0, f32::NAN), (0, f32::INFINITY)] {
        let wrong = Sampling {
            logit_bias: vec![(token, bias)],
            ..Sampling::default()
        };
        let error = ask(&mut session, &mut pair.projector, wrong).expect_err("out of range");
        assert!(
            matches!(
                error,
                Error::OptionRange {
                    name: "logit_bias",
                    ..
                }
            ),
            "{error}"
        );
    }
}

/// The text of an answer that is held to a form.
fn constrained(arch: Arch, constraint: Constraint, seed: u32) -> Result<Outcome, Error> {
    let pair = Pair::new(arch);
    let mut session = pair.session(SessionOptions::default());
    let request = Request {
        constraint: Some(constraint),
        n_predict: 200,
        sampling: Sampling {
            temp: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(seed),
            ..Sampling::default()
        },
        ..Request::new(Prompt::raw("once upon a time"))
    };
    session.generate(None, &request, ignore)
}

#[test]
fn answers_keep_to_a_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "blue"]},
            "sides": {"$ref": "#/$defs/sides"},
        },
        "required": ["colour", "sides"],
        "additionalProperties": false,
        "$defs": {"sides": {"type": "integer", "minimum": 3, "maximum": 12}},
    });
    for (arch, seed) in [(Arch::Llama, 1), (Arch::Llama, 2), (Arch::Qwen2, 3)] {
        let outcome = constrained(arch, Constraint::JsonSchema(schema.clone()), seed).expect("an answer");
        assert_eq!(outcome.stop, StopReason::EndOfGeneration, "{}", outcome.text);
        let value: Value = serde_json::from_str(&outcome.text).expect(&outcome.text);
        assert!(jsonschema::is_valid(&schema, &value), "{value}");
    }
}

#[test]
fn answers_keep_to_a_grammar() {
    let gbnf = "root ::= (word \" \"){2,4} \"#\" [^0-9 a-z] \"!\"?\nword ::= [a-c]+ | \"\\u00e9\"";
    let is_word = |word: &str| {
        word == "é" || (!word.is_empty() && word.bytes().all(|byte| (b'a'..=b'c').contains(&byte)))
    };
    for seed in 0..6 {
        let outcome =
            constrained(Arch::Llama, Constraint::Grammar(gbnf.to_owned()), seed).expect("an answer");
        if outcome.stop == StopReason::Length {
            continue; // a long word
        }
        let (words, end) = outcome.text.rsplit_once(" #").expect(&outcome.text);
        let words: Vec<&str> = words.split(' ').collect();
        assert!(
            (2..=4).contains(&words.len()) && words.iter().all(|word| is_word(word)),
            "{}",
            outcome.text
        );
        let mut end = end.chars();
        assert!(
            end.next()
                .is_some_and(|first| !first.is_ascii_digit() && !first.is_ascii_lowercase())
        );
        assert!(matches!(end.as_str(), "" | "!"), "{}", outcome.text);
    }
    let lark = "%llguidance {}\nstart: \"yes\" | \"no\"".to_owned();
    let outcome = constrained(Arch::Llama, Constraint::Grammar(lark), 1).expect("an answer");
    assert!(["yes", "no"].contains(&outcome.text.as_str()), "{}", outcome.text);
}

#[test]
fn forms_that_cannot_be_are_errors() {
    for constraint in [
        Constraint::Grammar("root ::= other".to_owned()),
        Constraint::Grammar("%llguidance {}\nstart: nothing".to_owned()),
        Constraint::JsonSchema(json!({"type": "thing"})),
        Constraint::JsonSchema(json!({"$ref": "http://127.0.0.1:1/schema.json"})),
    ] {
        let error = constrained(Arch::Llama, constraint.clone(), 1).expect_err("no such form");
        assert!(
            matches!(error, Error::Constraint { .. }),
            "{constraint:?}: {error}"
        );
    }
}
