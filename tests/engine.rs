//! The engine from end to end, on small random models: answers, events, cancellation, and what bad input gets.
#![cfg(feature = "native")]

mod common;

use std::ops::ControlFlow::{self, Break, Continue};
use std::path::{Path, PathBuf};

use common::random_model::{Arch, RandomLlm, RandomProjector};
use tempfile::TempDir;
use visipruner::engine::{
    CancelHandle, Error, Event, FlashAttention, Image, KvType, Model, ModelOptions, Part, Projector,
    ProjectorOptions, Prompt, Request, Sampling, Session, SessionOptions, StopReason,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::VisiPrunerConfig;
use visipruner::policy::fixed::Schedule;

/// A random model and its projector, on disk and loaded.
struct Pair {
    folder: TempDir,
    model: Model,
    projector: Projector,
}

impl Pair {
    fn new(arch: Arch) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let llm = RandomLlm::new(arch, 7);
        llm.write(folder.path().join("model.gguf"));
        RandomProjector::new(8, llm.n_embd()).write(folder.path().join("mmproj.gguf"));
        let model = load(&folder.path().join("model.gguf")).expect("the model loads");
        let projector =
            load_projector(&folder.path().join("mmproj.gguf"), &model).expect("the projector loads");
        Self {
            folder,
            model,
            projector,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn session(&self, options: SessionOptions) -> Session {
        Session::new(
            &self.model,
            SessionOptions {
                n_threads: Some(1),
                ..options
            },
        )
        .expect("a session")
    }
}

fn load(path: &Path) -> Result<Model, Error> {
    Model::load(path, &ModelOptions::default(), |_| Continue(()))
}

fn load_projector(path: &Path, model: &Model) -> Result<Projector, Error> {
    let options = ProjectorOptions {
        n_threads: Some(1),
        ..ProjectorOptions::default()
    };
    Projector::load(path, model, &options, |_| Continue(()))
}

/// A picture of coloured noise.
fn picture(width: u32, height: u32, seed: u32) -> Image {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    let data = (0..width as usize * height as usize * 3)
        .map(|_| byte())
        .collect();
    Image::from_rgb8(width, height, data).expect("a picture")
}

fn question() -> Request {
    Request {
        images: vec![picture(40, 30, 1)],
        n_predict: 12,
        report_logits: true,
        report_probes: true,
        ..Request::new(Prompt::raw("Look at this: <image> What colour is it? It is"))
    }
}

fn fixed(fusion_layer: usize, keep: usize, exit_from: usize) -> PolicyConfig {
    PolicyConfig::Fixed(Schedule {
        fusion_layer,
        keep,
        exit_from,
    })
}

fn ignore(_: Event<'_>) -> ControlFlow<()> {
    Continue(())
}

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
            policy,
            ..SessionOptions::default()
        });
        let first = session
            .generate(Some(&mut pair.projector), &question(), ignore)
            .expect("an answer");
        let other = Request {
            images: vec![picture(50, 50, 2)],
            ..question()
        };
        let other = session
            .generate(Some(&mut pair.projector), &other, ignore)
            .expect("an answer");
        let again = session
            .generate(Some(&mut pair.projector), &question(), ignore)
            .expect("an answer");
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
fn a_policy_that_keeps_everything_changes_nothing() {
    for arch in Arch::ALL {
        let mut pair = Pair::new(arch);
        let dense = pair
            .session(SessionOptions::default())
            .generate(Some(&mut pair.projector), &question(), ignore)
            .expect("an answer");
        // No layer fires, so every row goes through every range.
        let config = VisiPrunerConfig {
            shallow_mid_layer: 1,
            layer_threshold: -1.0,
            ..VisiPrunerConfig::default()
        };
        let options = SessionOptions {
            policy: PolicyConfig::VisiPruner(config),
            ..SessionOptions::default()
        };
        let staged = pair
            .session(options)
            .generate(Some(&mut pair.projector), &question(), ignore)
            .expect("an answer");
        let report = &staged.report;
        assert!(
            report
                .skipped
                .as_ref()
                .is_some_and(|why| why.contains("layer_threshold")),
            "{:?}",
            report.skipped
        );
        assert!(report.layers.iter().all(|layer| layer.rows == report.n_tokens));
        assert!(
            report.layers[2..]
                .iter()
                .all(|layer| layer.cos.as_ref().is_some_and(|cos| cos.len() == 16))
        );
        assert_eq!(staged.tokens, dense.tokens, "{arch:?}");
        let (staged, dense) = (
            report.logits.as_ref().unwrap(),
            dense.report.logits.as_ref().unwrap(),
        );
        let largest = staged
            .iter()
            .zip(dense)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        // Stock decodes text and image in batches of their own, which changes the order of sums.
        assert!(largest < 2e-3, "{arch:?}: logits differ by {largest}");
    }
}

#[test]
fn a_fixed_schedule_drops_what_it_says() {
    let mut pair = Pair::new(Arch::Llama);
    let options = SessionOptions {
        policy: fixed(2, 4, 5),
        ..SessionOptions::default()
    };
    let mut session = pair.session(options);
    let outcome = session
        .generate(Some(&mut pair.projector), &question(), ignore)
        .expect("an answer");
    let report = &outcome.report;
    let n_text = report.n_tokens - 16;
    let expected = [[16; 3].as_slice(), [4; 2].as_slice(), [0; 3].as_slice()].concat();
    let vision: Vec<usize> = report.layers.iter().map(|layer| layer.rows - n_text).collect();
    assert_eq!(vision, expected);
    assert!(report.layers.iter().all(|layer| layer.kv == layer.rows));
    let kv_final: Vec<usize> = report.layers.iter().map(|layer| layer.rows + 11).collect();
    assert_eq!(report.kv_final, kv_final);
    assert_eq!((report.fusion_layer, report.exit_from), (Some(2), Some(5)));
    assert_eq!(report.kept.as_ref().map(Vec::len), Some(4));
    assert!(report.kv_bytes.actual < report.kv_bytes.dense);
    assert!(report.flops.model.actual < report.flops.model.dense);
    assert_eq!(report.skipped, None);
}

#[test]
fn shallow_vision_is_forgotten_after_the_prefill() {
    for arch in [Arch::Llama, Arch::Qwen2Vl] {
        let mut pair = Pair::new(arch);
        let config = VisiPrunerConfig {
            shallow_mid_layer: 3,
            evict_shallow_kv: true,
            layer_threshold: -1.0,
            ..VisiPrunerConfig::default()
        };
        let options = SessionOptions {
            policy: PolicyConfig::VisiPruner(config),
            ..SessionOptions::default()
        };
        let request = Request {
            images: vec![picture(9, 9, 1), picture(9, 9, 2)],
            ..Request {
                prompt: Prompt::raw("A <image> B <image> C"),
                ..question()
            }
        };
        let outcome = pair
            .session(options)
            .generate(Some(&mut pair.projector), &request, ignore)
            .expect("an answer");
        let report = &outcome.report;
        let n_vision: usize = report.image_spans.iter().map(|span| span[1]).sum();
        for layer in &report.layers {
            assert_eq!(layer.rows, report.n_tokens);
            let n_forgotten = if layer.layer < 3 { n_vision } else { 0 };
            assert_eq!(
                layer.kv,
                report.n_tokens - n_forgotten,
                "{arch:?}, layer {}",
                layer.layer
            );
        }
    }
}

#[test]
fn long_prompts_small_batches_and_several_images() {
    let mut pair = Pair::new(Arch::Llama);
    let filler = "a long story about colours. ".repeat(8);
    let request = Request {
        prompt: Prompt::raw(&format!("{filler}<image> and {filler}<image> which? ")),
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
        let mut session = pair.session(SessionOptions {
            policy,
            ..SessionOptions::default()
        });
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
fn stopping_at_every_point_leaves_a_session_that_works() {
    let mut pair = Pair::new(Arch::Llama);
    for policy in [PolicyConfig::Off, fixed(2, 4, 5)] {
        let mut session = pair.session(SessionOptions {
            policy,
            ..SessionOptions::default()
        });
        let whole = session
            .generate(Some(&mut pair.projector), &question(), ignore)
            .expect("an answer");
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
        let again = session
            .generate(Some(&mut pair.projector), &question(), ignore)
            .expect("an answer");
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
    let handle: CancelHandle = session.cancel_handle();
    let request = Request {
        n_predict: 1500,
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
    assert!(!session.cancel_handle().is_cancelled(), "the stop was answered");

    session.cancel_handle().cancel();
    let outcome = session
        .generate(Some(&mut pair.projector), &question(), ignore)
        .expect("an answer");
    assert_eq!((outcome.stop, outcome.tokens.len()), (StopReason::Cancelled, 0));
    let outcome = session
        .generate(Some(&mut pair.projector), &question(), ignore)
        .expect("an answer");
    assert_eq!(outcome.stop, StopReason::Length);
}

#[test]
fn a_full_context_ends_the_answer() {
    let mut pair = Pair::new(Arch::Llama);
    for policy in [PolicyConfig::Off, fixed(2, 4, 5)] {
        let mut session = pair.session(SessionOptions {
            n_ctx: Some(256),
            policy,
            ..SessionOptions::default()
        });
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
        let mut session = pair.session(SessionOptions {
            n_ctx: Some(256),
            policy,
            ..SessionOptions::default()
        });
        let request = Request {
            prompt: Prompt::raw(&format!("<image>{}", "colour ".repeat(400))),
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
    assert!(refuse(&pair.path("mmproj.gguf")).contains("--mmproj"));
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
