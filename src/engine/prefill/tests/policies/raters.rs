//! Whose attention is read: raters.

use super::*;
use crate::policy::AttentionReading;
use crate::policy::sparsevlm;

#[test]
fn sparsevlm_asks_for_its_raters_and_takes_their_mean() {
    let question = Question::new(two_images());
    // The two rows after the last image disagree.
    let mut engine = Fake::attending(|_, query, token| match (query.0, token.0) {
        (10, 0) => 0.75,
        (11, 4) => 0.5,
        (_, token) => 0.0625 * f64::from(token % 3),
    });
    let fields = "policy = 'sparsevlm'\nrank_layers = [3]\nkeep = [2]";
    let trace = question.run(&mut engine, fields);
    let [(3, Statistic::TextAttention, raters)] = &asked(&engine)[..] else {
        panic!("{:?}", asked(&engine));
    };
    assert!(
        !raters.is_empty() && raters.iter().all(|&row| row >= 10),
        "{raters:?}"
    );
    let weight = &trace.layers[3].weights.as_ref().unwrap().weight;
    let of = |query: u32, token: u32| match (query, token) {
        (10, 0) => 0.75,
        (11, 4) => 0.5,
        (_, token) => 0.0625 * f64::from(token % 3),
    };
    let mean = |token| raters.iter().map(|&query| of(query, token)).sum::<f64>() / raters.len() as f64;
    assert_eq!(*weight, (0..6).map(mean).collect::<Vec<_>>());
}

/// Affinities by hand: two vision tokens along the first axis, one along the second; text rows along the first, against
/// it, along the second. Shares: softmax(2, -2, 0) twice and softmax(0, 0, 1) once.
#[test]
fn raters_are_text_with_at_least_the_mean_share() {
    let question = Question {
        layout: PromptLayout {
            n_rows: 7,
            vision: vec![1..4],
        },
        vision: vec![1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
        // The row before the image would rate most, were it asked.
        text: vec![9.0, 9.0, 2.0, 0.0, -2.0, 0.0, 0.0, 1.0],
    };
    let softmax = |scores: [f64; 3]| {
        let sum: f64 = scores.iter().map(|score| score.exp()).sum();
        scores.map(|score| score.exp() / sum)
    };
    let (a, b) = (softmax([2.0, -2.0, 0.0]), softmax([0.0, 0.0, 1.0]));
    let shares = [0, 1, 2].map(|j| (2.0 * a[j] + b[j]) / 3.0);
    assert!(shares[0] > 1.0 / 3.0 && shares[1] < 1.0 / 3.0 && shares[2] < 1.0 / 3.0);
    let embeddings = |present: &[u32]| {
        let present: Vec<VisionIndex> = present.iter().copied().map(VisionIndex).collect();
        let embeddings = Embeddings {
            n_embd: 2,
            vision: &question.vision,
            text: Some(&question.text),
        };
        sparsevlm::raters(&question.layout, &present, &embeddings)
    };
    assert_eq!(embeddings(&[0, 1, 2]), [Row(4)]);
    // Of the third token alone the last row has most.
    assert_eq!(embeddings(&[2]), [Row(6)]);
}

#[test]
fn equal_shares_make_all_text_raters() {
    let layout = PromptLayout {
        n_rows: 9,
        vision: vec![0..2],
    };
    let embeddings = Embeddings {
        n_embd: 1,
        vision: &[0.3, 0.7],
        text: Some(&[0.9; 7]),
    };
    let present = [VisionIndex(0), VisionIndex(1)];
    let raters = sparsevlm::raters(&layout, &present, &embeddings);
    assert_eq!(raters, (2..9).map(Row).collect::<Vec<_>>());
}

/// A policy that wants the attention of given rows in layer 1.
struct Asking {
    raters: Vec<Row>,
    seen: Option<AttentionReading>,
}

impl StagePolicy for Asking {
    fn raters(&self) -> &[Row] {
        &self.raters
    }

    fn plan(&self, il: usize) -> LayerPlan {
        LayerPlan {
            probe: (il == 1).then_some(Statistic::TextAttention),
            decides: il == 1,
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, _il: usize, reading: Option<&Reading>) -> Decision {
        self.seen = reading.and_then(Reading::attention).cloned();
        Decision::KeepAll
    }

    fn outcome(&self) -> crate::policy::Outcome {
        crate::policy::Outcome {
            skipped: Some(Skipped::WithinBudget),
            ..Default::default()
        }
    }
}

fn ask(
    raters: &[u32],
    layout: &PromptLayout,
    max_rows: usize,
) -> Result<(Fake, Asking), PrefillError<FakeError>> {
    let mut engine = Fake::attending(|_, _, _| 0.5);
    engine.layout = layout.clone();
    let mut policy = Asking {
        raters: raters.iter().copied().map(Row).collect(),
        seen: None,
    };
    let params = PrefillParams {
        cuts: &[2],
        max_rows_per_attention_probe: max_rows,
        probe_stride: 1,
        ..at_once(layout)
    };
    let trace = prefill(&mut engine, &params, &mut policy)?;
    engine.check_trace(&trace, &params);
    Ok((engine, policy))
}

#[test]
fn raters_are_spread_over_calls_and_see_only_what_precedes_them() {
    // Rows 0, 5 and 11 see none, the first, both of the images.
    let (engine, policy) = ask(&[0, 5, 11], &two_images(), 4).unwrap();
    let statistic = Statistic::TextAttention;
    assert_eq!(
        asked(&engine),
        [
            (1, statistic, vec![0]),
            (1, statistic, vec![5]),
            (1, statistic, vec![11])
        ]
    );
    // Beyond the range that is probed calls may be longer.
    let n_rows: Vec<usize> = engine.calls.iter().map(|call| call.rows.len()).collect();
    assert_eq!(n_rows, [4, 4, 4, 12]);
    let third = 1.0 / 3.0;
    assert_eq!(
        policy.seen.unwrap().weight,
        [third, third, third, third / 2.0, third / 2.0, third / 2.0]
    );
    // A call without raters is not probed.
    let (engine, _) = ask(&[11], &two_images(), 4).unwrap();
    assert_eq!(asked(&engine), [(1, statistic, vec![11])]);
    // Raters that no call has after an image leave zeros.
    let (_, policy) = ask(&[0], &two_images(), 99).unwrap();
    assert_eq!(policy.seen.unwrap().weight, [0.0; 6]);
}

#[test]
fn raters_must_be_text() {
    for raters in [&[][..], &[3], &[6, 5], &[5, 5], &[12]] {
        let Err(error) = ask(raters, &two_images(), 99) else {
            panic!("{raters:?}");
        };
        assert!(matches!(error, PrefillError::Raters { il: 1 }), "{error:?}");
    }
}

#[test]
fn attention_must_be_finite() {
    let mut engine = attending(|_, token| if token == 2 { f64::NAN } else { 0.5 });
    let layout = one_image();
    let mut working = policy("policy = 'fastv'").build(N_LAYER, &layout).unwrap();
    let params = at_once(&layout);
    let error = prefill(&mut engine, &params, working.as_mut()).unwrap_err();
    assert!(
        matches!(error, PrefillError::Probe { il: 1, row: 5 }),
        "{error:?}"
    );
}
