//! Looking into layers: every supported architecture, progress, stopping.

use super::*;
use visipruner::engine::{Inspector, encode};
use visipruner::inspect::InspectedLayer;

fn inspector(model: &Model) -> Inspector {
    let options = SessionOptions {
        n_threads: Some(1),
        ..SessionOptions::default()
    };
    Inspector::new(model, options).expect("an inspector")
}

fn inspect(pair: &mut Pair, request: &Request) -> (Option<(usize, usize)>, Vec<InspectedLayer>) {
    let mut inspector = inspector(&pair.model);
    let prompt = encode(&pair.model, Some(&mut pair.projector), request, ignore);
    let prompt = prompt.expect("encodes").expect("nothing stopped it");
    let layers = inspector
        .layers(&prompt, 2, &CancelHandle::default(), ignore)
        .expect("measures");
    (prompt.media()[0].grid, layers.expect("nothing stopped it"))
}

#[test]
fn every_architecture_can_be_inspected() {
    for arch in Arch::ALL {
        let mut pair = Pair::of_kind(arch);
        let request = Request {
            images: vec![picture(96, 64, 1)],
            ..question()
        };
        let (grid, layers) = inspect(&mut pair, &request);
        let (n_cols, n_rows) = grid.expect("a grid");
        if arch == Arch::Qwen2Vl {
            assert!(n_cols > n_rows, "{n_cols} x {n_rows} of a wide picture");
        }
        assert_eq!(layers.len(), 8, "{arch:?}");
        for (il, layer) in layers.iter().enumerate() {
            assert_eq!(layer.attention.len(), n_cols * n_rows, "{arch:?}");
            let on_vision: f64 = layer.attention.iter().sum();
            assert!(
                (0.0..=1.001).contains(&on_vision),
                "{arch:?} layer {il}: {on_vision}"
            );
            assert!(
                layer.min_cos().is_some_and(|cos| (-1.0..1.0).contains(&cos)),
                "{arch:?} layer {il}"
            );
        }
        // What leads after the last layer is what is answered.
        let mut session = pair.session(SessionOptions::default());
        let outcome = session
            .generate(Some(&mut pair.projector), &request, ignore)
            .expect("an answer");
        let first = pair.model.detokenize(&outcome.tokens[..1], true);
        assert_eq!(layers[7].top[0].text, first, "{arch:?}");
    }
}

#[test]
fn progress_runs_once_from_nothing_to_all_and_may_be_stopped() {
    let mut pair = Pair::new(Arch::Llama);
    let mut inspector = inspector(&pair.model);
    let prompt = encode(&pair.model, Some(&mut pair.projector), &question(), ignore);
    let prompt = prompt.expect("encodes").expect("nothing stopped it");
    let nobody = CancelHandle::default();
    let mut heard = Vec::new();
    let all = inspector.layers(&prompt, 1, &nobody, |event| {
        if let Event::Prefill(done) = event {
            heard.push(done);
        }
        Continue(())
    });
    let all = all.expect("measures").expect("nothing stopped it");
    assert_eq!((heard.first(), heard.last()), (Some(&0.0), Some(&1.0)));
    assert!(heard.is_sorted(), "{heard:?}");

    for limit in [0.0, 0.3, 0.8] {
        let stopped = inspector.layers(&prompt, 1, &nobody, |event| match event {
            Event::Prefill(done) if done >= limit => Break(()),
            _ => Continue(()),
        });
        assert_eq!(stopped.expect("no error"), None, "at {limit}");
    }
    let stopped = CancelHandle::default();
    stopped.cancel();
    let layers = inspector.layers(&prompt, 1, &stopped, ignore);
    assert_eq!(layers.expect("no error"), None);
    let layers = inspector.layers(&prompt, 1, &nobody, ignore);
    assert_eq!(layers.expect("measures"), Some(all));
}

#[test]
fn a_prompt_of_another_model_is_refused() {
    let (mut pair, other) = (Pair::new(Arch::Llama), Pair::new(Arch::Qwen2));
    let prompt = encode(&pair.model, Some(&mut pair.projector), &question(), ignore);
    let prompt = prompt.expect("encodes").expect("nothing stopped it");
    let error = inspector(&other.model)
        .layers(&prompt, 1, &CancelHandle::default(), ignore)
        .expect_err("another model");
    assert!(matches!(error, Error::ForeignPrompt), "{error}");
}
