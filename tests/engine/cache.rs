//! Pictures that come again: encoded once, and the same bit by bit.

use super::*;

struct Encoded {
    embeddings: Vec<f32>,
    tokens: Vec<i32>,
    /// Whether some of it came from the cache.
    has_cached: bool,
    /// How often progress of the encoder was heard.
    n_heard: usize,
}

fn cached(pair: &Pair, cache_bytes: usize) -> Projector {
    let options = ProjectorOptions {
        n_threads: Some(1),
        cache_bytes,
        ..ProjectorOptions::default()
    };
    Projector::load(pair.path("mmproj.gguf"), &pair.model, &options, |_| Continue(())).expect("loads")
}

fn encode(pair: &Pair, projector: &mut Projector, images: &[Image], text: &str) -> Encoded {
    let request = Request {
        images: images.to_vec(),
        ..Request::new(marked(&format!("{}{text}", "<image>".repeat(images.len()))))
    };
    let mut n_heard = 0;
    let prompt = engine::encode(&pair.model, Some(projector), &request, |event| {
        n_heard += usize::from(matches!(event, Event::Encode { .. }));
        Continue(())
    });
    let prompt = prompt.expect("encodes").expect("is not stopped");
    Encoded {
        embeddings: prompt.embeddings().to_vec(),
        tokens: prompt.tokens().to_vec(),
        has_cached: !prompt.saved_time().is_zero(),
        n_heard,
    }
}

/// Room for every picture of these tests.
const PLENTY: usize = 1 << 20;

#[test]
fn a_picture_that_comes_again_is_not_encoded_again() {
    let mut pair = Pair::new(Arch::Llama);
    let mut projector = cached(&pair, PLENTY);
    let (a, b) = (picture(40, 30, 1), picture(40, 30, 2));
    let questions = [
        (vec![a.clone()], "What colour?", false),
        (vec![a.clone()], "How many are there of them?", true),
        (vec![b.clone()], "What colour?", false),
        (vec![a.clone(), b.clone()], "Are they the same?", true),
        (vec![b.clone(), b.clone()], "Are they the same?", true),
    ];
    let mut plain = cached(&pair, 0);
    let mut layers = Vec::new();
    for (images, text, expected) in questions {
        let kept = encode(&pair, &mut projector, &images, text);
        let fresh = encode(&pair, &mut plain, &images, text);
        assert!(kept.embeddings == fresh.embeddings, "{text}");
        assert_eq!(kept.tokens, fresh.tokens);
        assert_eq!((kept.has_cached, fresh.has_cached), (expected, false), "{text}");
        // of a picture from the cache no layer is heard
        layers.push(fresh.n_heard - kept.n_heard);
    }
    let per_picture = layers[1];
    assert!(per_picture > 0);
    assert_eq!(layers, [0, per_picture, 0, 2 * per_picture, 2 * per_picture]);

    // and the answer is that of a projector without a cache
    let mut session = pair.session(with_policy(fixed(2, 5, 5)));
    let fresh = session.answer(&mut pair.projector);
    let first = session.answer(&mut projector);
    let again = session.answer(&mut projector);
    assert_eq!(first.report.logits, fresh.report.logits);
    assert_eq!(again.report.logits, fresh.report.logits);
}

/// A picture twice in one prompt that was never seen: the second comes from the first.
#[test]
fn twins_in_one_prompt() {
    let pair = Pair::new(Arch::Llama);
    let twins = [picture(40, 30, 1), picture(40, 30, 1)];
    let kept = encode(&pair, &mut cached(&pair, PLENTY), &twins, "Which?");
    let fresh = encode(&pair, &mut cached(&pair, 0), &twins, "Which?");
    assert!(kept.has_cached && kept.embeddings == fresh.embeddings);
}

#[test]
fn without_room_nothing_is_kept() {
    let pair = Pair::new(Arch::Llama);
    // pixels alone
    let mut projector = cached(&pair, 40 * 30 * 3);
    for _ in 0..2 {
        assert!(!encode(&pair, &mut projector, &[picture(40, 30, 1)], "What?").has_cached);
    }
}

/// Pictures of any size, each with its own number of tokens.
#[test]
fn pictures_of_different_sizes_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let llm = RandomLlm::new(Arch::Qwen2Vl, 7);
    llm.write(folder.path().join("model.gguf"));
    RandomProjector::qwen2vl(8, llm.n_embd()).write(folder.path().join("mmproj.gguf"));
    let model = load(&folder.path().join("model.gguf")).expect("the model loads");
    let projector = load_projector(&folder.path().join("mmproj.gguf"), &model).expect("loads");
    let pair = Pair {
        folder,
        model,
        projector,
    };
    let (mut kept, mut plain) = (cached(&pair, PLENTY), cached(&pair, 0));
    for (size, expected) in [(64, false), (128, false), (64, true), (128, true)] {
        let images = [picture(size, 64, 3)];
        let kept = encode(&pair, &mut kept, &images, "What?");
        let fresh = encode(&pair, &mut plain, &images, "What?");
        assert!(
            kept.embeddings == fresh.embeddings && kept.tokens == fresh.tokens,
            "{size}"
        );
        assert_eq!(kept.has_cached, expected, "{size}");
    }
}
