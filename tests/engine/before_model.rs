//! Policies that act before layer 0 run on every model: in llama.cpp's own memory where layers cannot be run in ranges.

use super::common::policies::policy;
use super::*;
use visipruner::engine::{AnyPolicy, Cuts};

fn exact(options: SessionOptions) -> SessionOptions {
    SessionOptions {
        type_k: KvType::F32,
        type_v: KvType::F32,
        flash_attn: FlashAttention::Off,
        ..options
    }
}

#[test]
fn stocks_memory_and_ours_answer_alike() {
    for arch in Arch::ALL {
        let mut pair = Pair::of_kind(arch);
        for toml in [
            "policy = 'divprune'\nbudget = 6",
            "policy = 'uniform'\nbudget = '30%'",
        ] {
            let request = Request {
                images: vec![picture(40, 30, 1), picture(30, 40, 2)],
                prompt: marked("Look at <image> and at <image> What colour is it? It is"),
                policy: Some(AnyPolicy::Config(policy(toml))),
                ..question()
            };
            let mut ask = |options: SessionOptions| {
                let mut session = pair.session(exact(options));
                session
                    .generate(Some(&mut pair.projector), &request, ignore)
                    .expect("an answer")
            };
            let stock = ask(SessionOptions::default());
            let staged = ask(SessionOptions {
                cuts: Cuts::EveryLayer,
                ..SessionOptions::default()
            });
            let what = format!("{arch:?}, {toml}");
            assert_eq!(stock.tokens, staged.tokens, "{what}");
            let (stock, staged) = (stock.report, staged.report);
            let (a, b) = (stock.logits.expect("logits"), staged.logits.expect("logits"));
            let largest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < 2e-3, "{what}: logits differ by {largest}");
            assert_eq!(stock.drops.len(), 1, "{what}");
            assert_eq!(stock.drops, staged.drops, "{what}");
            assert_eq!(stock.flops, staged.flops, "{what}");
            let cells = |layers: &[visipruner::report::LayerReport]| -> Vec<(usize, usize)> {
                layers.iter().map(|layer| (layer.rows, layer.kv)).collect()
            };
            assert_eq!(cells(&stock.layers), cells(&staged.layers), "{what}");
        }
    }
}

#[test]
fn a_hybrid_takes_them_and_no_other() {
    let mut pair = Pair::new(Arch::Lfm2);
    let dense = pair
        .session(SessionOptions::default())
        .answer(&mut pair.projector);
    for toml in [
        "policy = 'divprune'\nbudget = 6",
        "policy = 'random'\nbudget = 6",
        "policy = 'uniform'\nbudget = 6",
    ] {
        let outcome = pair
            .session(with_policy(policy(toml)))
            .answer(&mut pair.projector);
        let report = &outcome.report;
        assert_eq!(report.n_tokens, dense.report.n_tokens, "{toml}");
        let n_rows = report.n_tokens - 16 + 6;
        assert!(report.layers.iter().all(|layer| layer.rows == n_rows), "{toml}");
        assert_eq!(report.drops.len(), 1, "{toml}");
        assert_eq!(outcome.tokens.len(), 12, "{toml}");
    }
    let refusal = |toml: &str| {
        let error = Session::new(&pair.model, with_policy(policy(toml))).expect_err("refused");
        assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
        error.to_string()
    };
    for toml in [
        "policy = 'vtw'\nexit_from = 4",
        "policy = 'divprune+vtw'\nbudget = 6\nexit_from = 4",
    ] {
        let message = refusal(toml);
        assert!(
            message.contains("'lfm2'") && message.contains("(divprune, random, uniform)"),
            "{message}"
        );
    }
    let mut session = pair.session(SessionOptions::default());
    let request = Request {
        policy: Some(AnyPolicy::Config(policy("policy = 'vtw'\nexit_from = 4"))),
        ..question()
    };
    let refused = session.generate(Some(&mut pair.projector), &request, ignore);
    assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
}
