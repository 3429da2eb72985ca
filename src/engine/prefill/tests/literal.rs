//! The meaning of calls, written out: what each query does with each key it sees, once from the policy's words and
//! once from the calls that were made of them.

use super::fake::Fake;
use crate::engine::prefill::{CallAttention, PrefillParams, RangeCall};
use crate::policy::trace::{LayerTrace, PrefillTrace};
use crate::policy::{Row, TextToVision, VisionToVision};

/// What a query does with one key.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Unseen,
    Plain,
    ZeroedAfterSoftmax,
    MergedOnto(Row),
    MaskedBeforeSoftmax,
}

pub fn check_attention(engine: &Fake, trace: &PrefillTrace, params: &PrefillParams<'_>) {
    for (il, layer) in trace.layers.iter().enumerate() {
        let calls: Vec<&RangeCall> = engine.calls_of_layer(il).collect();
        let rows: Vec<Row> = calls.iter().flat_map(|call| call.rows.clone()).collect();
        for &query in &rows {
            for &key in &rows {
                let expected = from_policy(layer, params, query, key);
                let actual = from_calls(&calls, query, key);
                assert_eq!(
                    actual, expected,
                    "layer {il}, query {query:?}, key {key:?}, {:?}",
                    layer.attention
                );
            }
        }
    }
}

fn from_policy(layer: &LayerTrace, params: &PrefillParams<'_>, query: Row, key: Row) -> Operator {
    let image_of = |row: Row| {
        params
            .layout
            .vision
            .iter()
            .position(|span| span.contains(&(row.0 as usize)))
    };
    let both_ways = !params.causal_images && image_of(query).is_some() && image_of(query) == image_of(key);
    if key > query && !both_ways {
        return Operator::Unseen;
    }
    if image_of(key).is_none() {
        return Operator::Plain;
    }
    let vision_rows = params.layout.vision_rows();
    let in_first_half = vision_rows.iter().position(|&row| row == key).unwrap() < vision_rows.len() / 2;
    let first = vision_rows[layer.vision[0].0 as usize];
    if image_of(query).is_some() {
        return match layer.attention.vision_to_vision {
            VisionToVision::Keep => Operator::Plain,
            VisionToVision::Zero => Operator::ZeroedAfterSoftmax,
            VisionToVision::Mask => Operator::MaskedBeforeSoftmax,
        };
    }
    match layer.attention.text_to_vision {
        TextToVision::Zero => Operator::ZeroedAfterSoftmax,
        TextToVision::ZeroFirstHalf if in_first_half => Operator::ZeroedAfterSoftmax,
        TextToVision::Keep | TextToVision::ZeroFirstHalf => Operator::Plain,
        TextToVision::MergeOntoFirst => Operator::MergedOnto(first),
        TextToVision::Mask => Operator::MaskedBeforeSoftmax,
    }
}

fn from_calls(calls: &[&RangeCall], query: Row, key: Row) -> Operator {
    let n_call = calls.iter().position(|call| call.rows.contains(&query)).unwrap();
    let call = calls[n_call];
    let stored_before = calls[..n_call].iter().any(|call| call.rows.contains(&key));
    let in_call = call.rows.contains(&key) && key <= call.both_ways_until.unwrap_or(query);
    if !stored_before && !in_call {
        return Operator::Unseen;
    }
    let is_affected = |affected: &[bool]| affected[call.rows.iter().position(|&row| row == query).unwrap()];
    match &call.attention {
        CallAttention::Zero { hidden } if hidden.contains(&key) => Operator::ZeroedAfterSoftmax,
        CallAttention::Merge { hidden } if hidden.contains(&key) => Operator::MergedOnto(hidden[0]),
        CallAttention::Mask { hidden, affected } if hidden.contains(&key) && is_affected(affected) => {
            Operator::MaskedBeforeSoftmax
        }
        _ => Operator::Plain,
    }
}
