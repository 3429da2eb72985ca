//! Requests that are stopped, and contexts that are full.

use super::*;

#[test]
fn stopping_at_every_point_leaves_a_session_that_works() {
    let mut pair = Pair::new(Arch::Llama);
    for policy in [PolicyConfig::Off, fixed(2, 4, 5)] {
        let mut session = pair.session(with_policy(policy));
        let whole = session.answer(&mut pair.projector);
        for stop_at in 0..12 {
            let mut n_events = 0;
            let outcome = session
                .generate(Some(&mut pair.projector), &question(), |_| {
                    n_events += 1;
                    if n_events > stop_at {
                        Break(())
                    } else {
                        Continue(())
                    }
                })
                .expect("an answer");
            assert_eq!(outcome.stop, StopReason::Cancelled);
            assert!(whole.text.starts_with(&outcome.text));
            assert_eq!(n_events, stop_at + 1, "nothing is heard after the stop");
        }
        let again = session.answer(&mut pair.projector);
        assert_eq!(again.tokens, whole.tokens);
    }
}

#[test]
fn a_handle_stops_a_request_from_elsewhere() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions {
        n_ctx: Some(2048),
        ..SessionOptions::default()
    });
    let handle = CancelHandle::default();
    let request = Request {
        n_predict: 1500,
        cancel: handle.clone(),
        ..question()
    };
    let mut n_pieces = 0;
    let outcome = session
        .generate(Some(&mut pair.projector), &request, |event| {
            if matches!(event, Event::Text(_)) {
                n_pieces += 1;
                if n_pieces == 3 {
                    let handle = handle.clone();
                    std::thread::spawn(move || handle.cancel())
                        .join()
                        .expect("the thread ends");
                }
            }
            Continue(())
        })
        .expect("an answer");
    assert_eq!(outcome.stop, StopReason::Cancelled);
    assert!(outcome.tokens.len() < 1500);

    let again = session.generate(Some(&mut pair.projector), &request, ignore);
    let again = again.expect("an answer");
    assert_eq!(
        (again.stop, again.tokens.len()),
        (StopReason::Cancelled, 0),
        "the same handle"
    );
    let outcome = session.answer(&mut pair.projector);
    assert_eq!(outcome.stop, StopReason::Length);
}

/// Options of a session with little room.
fn in_256_tokens(policy: PolicyConfig) -> SessionOptions {
    SessionOptions {
        n_ctx: Some(256),
        ..with_policy(policy)
    }
}

#[test]
fn a_full_context_ends_the_answer() {
    let mut pair = Pair::new(Arch::Llama);
    for policy in [PolicyConfig::Off, fixed(2, 4, 5)] {
        let mut session = pair.session(in_256_tokens(policy));
        let request = Request {
            n_predict: 1000,
            ..question()
        };
        let outcome = session
            .generate(Some(&mut pair.projector), &request, ignore)
            .expect("an answer");
        assert_eq!(outcome.stop, StopReason::ContextFull);
        assert_eq!(outcome.report.n_tokens + outcome.tokens.len(), 256 + 1);
    }
    let session = pair.session(SessionOptions {
        n_ctx: Some(100),
        ..SessionOptions::default()
    });
    assert_eq!(
        session.n_ctx(),
        100,
        "what was asked for, however llama.cpp rounds it"
    );
}

#[test]
fn a_prompt_that_does_not_fit_says_what_it_needs() {
    let mut pair = Pair::new(Arch::Llama);
    for policy in [PolicyConfig::Off, fixed(2, 4, 5)] {
        let mut session = pair.session(in_256_tokens(policy));
        let request = Request {
            prompt: marked(&format!("<image>{}", "colour ".repeat(400))),
            ..question()
        };
        let error = session
            .generate(Some(&mut pair.projector), &request, ignore)
            .expect_err("too long");
        let Error::PromptTooLong {
            n_tokens,
            n_vision: 16,
            n_ctx: 256,
            suggested,
        } = error
        else {
            panic!("{error}");
        };
        assert!(n_tokens > 256 && suggested >= n_tokens + 12);
        let mut session = pair.session(SessionOptions {
            n_ctx: Some(suggested as u32),
            ..session.options().clone()
        });
        session
            .generate(Some(&mut pair.projector), &request, ignore)
            .expect("it fits now");
    }
}

#[test]
fn loading_can_be_stopped_and_panics_come_back() {
    let pair = Pair::new(Arch::Llama);
    let stopped = Model::load(pair.path("model.gguf"), &ModelOptions::default(), |_| Break(()));
    assert!(matches!(stopped, Err(Error::LoadStopped { .. })));
    let panicked = std::panic::catch_unwind(|| {
        Model::load(pair.path("model.gguf"), &ModelOptions::default(), |_| {
            panic!("in the callback")
        })
    });
    assert!(panicked.is_err());
    load(&pair.path("model.gguf")).expect("it still loads");
}
