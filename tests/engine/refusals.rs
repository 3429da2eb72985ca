//! Bad input is an error in words.

use super::*;

#[test]
fn requests_that_make_no_sense() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions::default());
    let mut refuse = |projector: Option<&mut Projector>, request: Request| {
        session
            .generate(projector, &request, ignore)
            .expect_err("it is refused")
            .to_string()
    };
    let two = Request {
        images: vec![picture(8, 8, 1), picture(8, 8, 2)],
        ..question()
    };
    let message = refuse(Some(&mut pair.projector), two);
    assert!(
        message.contains("1 image marker(s)") && message.contains("2 image(s)"),
        "{message}"
    );
    let none = Request {
        images: Vec::new(),
        ..question()
    };
    assert!(refuse(Some(&mut pair.projector), none).contains("0 image(s)"));
    assert!(refuse(None, question()).contains("mmproj"));
    let empty = Request::new(Prompt::raw(""));
    assert!(refuse(None, empty).contains("empty"));
    let hot = Request {
        sampling: Sampling {
            temp: -1.0,
            ..Sampling::default()
        },
        ..question()
    };
    assert_eq!(
        refuse(Some(&mut pair.projector), hot),
        "temp is -1: expected 0 to 100"
    );
    let template = Request {
        chat_template: Some("{{ nonsense(".to_owned()),
        prompt: Prompt::chat("x"),
        ..question()
    };
    assert!(refuse(Some(&mut pair.projector), template).contains("chat template failed"));

    let other = load(&pair.path("model.gguf")).expect("the model loads again");
    let mut other = load_projector(&pair.path("mmproj.gguf"), &other).expect("the projector loads");
    assert!(refuse(Some(&mut other), question()).contains("another model than the session's"));
}

#[test]
fn sessions_that_cannot_be() {
    let pair = Pair::new(Arch::Llama);
    let refuse = |options: SessionOptions| {
        Session::new(&pair.model, options)
            .expect_err("refused")
            .to_string()
    };
    let quantized = SessionOptions {
        type_v: KvType::Q4_0,
        flash_attn: FlashAttention::Off,
        ..SessionOptions::default()
    };
    assert!(refuse(quantized).contains("flash attention"));
    let beyond = VisiPrunerConfig {
        shallow_mid_layer: 8,
        ..VisiPrunerConfig::default()
    };
    let message = refuse(SessionOptions {
        policy: PolicyConfig::VisiPruner(beyond),
        ..SessionOptions::default()
    });
    assert!(
        message.contains("shallow_mid_layer") && message.contains('7'),
        "{message}"
    );
    assert!(
        refuse(SessionOptions {
            n_ubatch: 0,
            ..SessionOptions::default()
        })
        .starts_with("n_ubatch is 0")
    );
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let pair = Pair::new(Arch::Llama);
    let whole = std::fs::read(pair.path("model.gguf")).expect("reads");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(pair.path(name), bytes).expect("writes");
        pair.path(name)
    };
    let refuse = |path: &Path| {
        let message = load(path).expect_err("refused").to_string();
        assert!(message.contains(&*path.to_string_lossy()), "{message}");
        assert!(!message.contains('\n'), "{message}");
        message
    };
    refuse(&pair.path("missing.gguf"));
    refuse(&write("empty.gguf", b""));
    refuse(&write("text.gguf", b"this is not a model at all, is it?"));
    for n_bytes in [3, 20, 100, 5_000, whole.len() / 2, whole.len() - 1] {
        refuse(&write("truncated.gguf", &whole[..n_bytes]));
    }
    assert!(refuse(&pair.path("mmproj.gguf")).contains("give it as the projector"));
    let message = load_projector(&pair.path("model.gguf"), &pair.model)
        .expect_err("refused")
        .to_string();
    assert!(message.contains("not an image projector"), "{message}");
}

#[test]
fn damage_anywhere_in_the_header_is_an_error_or_harmless() {
    let pair = Pair::new(Arch::Llama);
    let whole = std::fs::read(pair.path("model.gguf")).expect("reads");
    let n_header = visipruner::gguf::Gguf::open(pair.path("model.gguf"))
        .expect("opens")
        .data_offset() as usize;
    let damaged = pair.path("damaged.gguf");
    // Single bits of the header, spread over it: wrong lengths, types, names and values.
    for at in (8..n_header).step_by(n_header / 40) {
        for bit in [0, 5] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(&damaged, &bytes).expect("writes");
            let Ok(model) = load(&damaged) else { continue };
            let Ok(mut session) = Session::new(
                &model,
                SessionOptions {
                    n_ctx: Some(256),
                    ..SessionOptions::default()
                },
            ) else {
                continue;
            };
            let request = Request {
                n_predict: 1,
                ..Request::new(Prompt::raw("hello"))
            };
            let _ = session.generate(None, &request, ignore);
        }
    }
}

#[test]
fn a_projector_of_another_model_names_both_widths() {
    let pair = Pair::new(Arch::Llama);
    RandomProjector::new(9, 96).write(pair.path("narrow.gguf"));
    let message = load_projector(&pair.path("narrow.gguf"), &pair.model)
        .expect_err("refused")
        .to_string();
    assert!(message.contains("96") && message.contains("128"), "{message}");
}

#[test]
fn a_prompt_of_another_model() {
    let (mut pair, other) = (Pair::new(Arch::Llama), Pair::new(Arch::Qwen2));
    let encoded = engine::encode(&pair.model, Some(&mut pair.projector), &question(), ignore)
        .expect("it is encoded")
        .expect("nothing stops it");
    let mut session = pair.session(SessionOptions {
        remember: false,
        ..SessionOptions::default()
    });
    let direct = session.answer(&mut pair.projector);
    let outcome = session
        .generate_encoded(&encoded, &question(), ignore)
        .expect("an answer");
    assert_eq!(outcome.report.logits, direct.report.logits);
    assert_eq!(outcome.tokens, direct.tokens);
    let refused = other
        .session(SessionOptions::default())
        .generate_encoded(&encoded, &question(), ignore);
    assert!(matches!(refused, Err(Error::ForeignPrompt)));
}
