//! Policies that rank by attention, and the one that only withdraws.

use super::*;
use crate::policy::AttentionReading;

#[test]
fn fastv_asks_one_layer_for_the_last_rows_attention() {
    let mut engine = attending(|_, token| [0.25, 0.5, 0.125, 0.5][token as usize]);
    let trace = Question::new(one_image()).run(&mut engine, "policy = 'fastv'");
    assert_eq!(asked(&engine), [(1, Statistic::LastAttention, vec![9])]);
    assert_eq!(ranges(&engine), [0..2, 2..10]);
    assert_eq!(rows_per_layer(&trace), [10, 10, 8, 8, 8, 8, 8, 8, 8, 8]);
    assert_eq!((trace.fusion_layer, &trace.kept), (None, &None));
    assert_eq!(drops(&trace), [(Some(1), vec![1, 3])]);
    assert_eq!(
        (trace.exit_layer, &trace.skipped, &trace.entered),
        (None, &None, &None)
    );
    assert_eq!(
        trace.layers[1].weights,
        Some(AttentionReading {
            tokens: (0..4).map(VisionIndex).collect(),
            weight: vec![0.25, 0.5, 0.125, 0.5],
        })
    );
    let stages: Vec<Stage> = trace.layers.iter().map(|layer| layer.stage).collect();
    assert_eq!(stages[..3], [Stage::Dense, Stage::Middle, Stage::Deep]);
}

#[test]
fn pyramiddrop_ranks_what_the_stage_before_left() {
    // Token 3 leads at first and falls back; token 0 would lead at last, but is gone by then.
    let mut engine = attending(|il, token| match il {
        2 => [0.0, 0.25, 0.5, 0.75][token as usize],
        5 => [1.0, 0.5, 0.75, 0.25][token as usize],
        _ => [1.0, 0.25, 0.5, 0.0][token as usize],
    });
    let fields = "policy = 'pyramiddrop'\nrank_layers = [2, 5, 7]\nkeep = ['75%', '50%', '25%']";
    let trace = Question::new(one_image()).run(&mut engine, fields);
    let layers = [2, 3, 5, 6, 7, 8, 9].map(|il| vision_of(&trace, il));
    assert_eq!(
        layers,
        [
            vec![0, 1, 2, 3],
            vec![1, 2, 3],
            vec![1, 2, 3],
            vec![1, 2],
            vec![1, 2],
            vec![2],
            vec![2]
        ]
    );
    let last = |il| (il, Statistic::LastAttention, vec![9]);
    assert_eq!(asked(&engine), [last(2), last(5), last(7)]);
    assert_eq!(ranges(&engine), [0..3, 3..6, 6..8, 8..10]);
    assert_eq!((trace.fusion_layer, &trace.kept), (None, &None));
    let expected = [
        (Some(2), vec![1, 2, 3]),
        (Some(5), vec![1, 2]),
        (Some(7), vec![2]),
    ];
    assert_eq!(drops(&trace), expected);
}

#[test]
fn a_budget_of_nothing_is_an_exit_that_asks_for_nothing() {
    for layout in layouts() {
        let question = Question::new(layout.clone());
        let mut engine = engine_at_rest();
        let fields = "policy = 'pyramiddrop'\nrank_layers = [3, 5]\nkeep = [0, 0]";
        let trace = question.run(&mut engine, fields);
        assert_eq!((trace.fusion_layer, trace.exit_layer), (None, Some(3)));
        assert_eq!(drops(&trace), [(Some(3), vec![])]);
        let n_text = layout.n_rows - layout.n_vision();
        assert_eq!(rows_per_layer(&trace)[4..], [n_text; 6]);
        assert_eq!((asked(&engine), ranges(&engine)), (vec![], vec![0..4, 4..10]));
    }
    // First fewer, then none.
    let mut engine = attending(|_, token| f64::from(token));
    let fields = "policy = 'pyramiddrop'\nrank_layers = [3, 5]\nkeep = [2, 0]";
    let trace = Question::new(one_image()).run(&mut engine, fields);
    assert_eq!(drops(&trace), [(Some(3), vec![2, 3]), (Some(5), vec![])]);
    assert_eq!(trace.exit_layer, Some(5));
    assert_eq!(asked(&engine).len(), 1);
}

#[test]
fn a_ranking_in_the_last_layer_comes_too_late() {
    let trace = Question::new(one_image()).run(
        &mut attending(|_, token| f64::from(token)),
        "policy = 'fastv'\nrank_layers = [9]\nkeep = [1]",
    );
    assert_eq!(trace.skipped, Some(Skipped::TooLate { il: 9 }));
    assert_eq!(drops(&trace), []);
    assert_eq!(rows_per_layer(&trace), [10; N_LAYER]);
}

#[test]
fn vtw_asks_nothing_and_drops_vision() {
    let mut engine = attending(|_, _| unreachable!());
    let trace = Question::new(two_images()).run(&mut engine, "policy = 'vtw'\nexit_from = 4");
    assert_eq!(rows_per_layer(&trace), [12, 12, 12, 12, 6, 6, 6, 6, 6, 6]);
    assert_eq!((trace.exit_layer, trace.fusion_layer), (Some(3), None));
    assert_eq!(drops(&trace), [(Some(3), vec![])]);
    assert_eq!((asked(&engine), ranges(&engine)), (vec![], vec![0..4, 4..10]));
    let trace = Question::new(two_images()).run(&mut engine_at_rest(), "policy = 'vtw'\nexit_from = 10");
    assert_eq!(rows_per_layer(&trace), [12; N_LAYER]);
    assert_eq!(
        trace.skipped.unwrap().to_string(),
        "vision would be dropped from layer 10 on, and the last layer is 9"
    );
}
