//! One answer, as the store keeps it.

use serde::{Deserialize, Serialize};

use super::hash::Fnv;
use crate::policy::cost::KvBytes;
use crate::report::{Count, RunReport};

/// What a policy answered to a question, and what that cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The question.
    pub id: String,
    /// The policy's label.
    pub policy: String,
    /// The generated text. Scores are computed from it when they are asked for.
    pub text: String,
    /// A hash of the generated tokens, for telling whether two answers are the same token by token.
    pub tokens: String,
    /// How many tokens were generated.
    pub n_generated: usize,
    /// The vision tokens of the prompt.
    pub n_vision: usize,
    /// Of these, how many the policy chose ([`RunReport::chosen`]); `n_vision` where nothing was dropped.
    pub n_kept: usize,
    /// Work by the paper's formula, multiply-adds; see [`crate::report::FlopsReport`].
    pub flops_paper: Spent,
    /// Work of all that ran, FLOPs.
    pub flops_model: Spent,
    /// Attention from and to vision tokens, FLOPs.
    pub vision_attention: Spent,
    /// Vision rows computed, summed over the layers.
    pub vision_rows: Spent,
    /// Bytes of keys and values of the prompt.
    pub kv_bytes: Spent,
    /// Milliseconds from the request to the first token, encoding of the pictures included.
    pub ttft_ms: f64,
    /// Milliseconds of the vision encoder.
    pub encode_ms: f64,
    /// Milliseconds of the prefill.
    pub prefill_ms: f64,
    /// Milliseconds of the generation.
    pub decode_ms: f64,
    /// Why no row was dropped, if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// A cost without pruning and as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// Without pruning.
    pub dense: u64,
    /// As it was.
    pub actual: u64,
}

impl From<Count> for Spent {
    fn from(count: Count) -> Self {
        Self {
            dense: count.dense,
            actual: count.actual,
        }
    }
}

impl From<KvBytes> for Spent {
    fn from(bytes: KvBytes) -> Self {
        Self {
            dense: bytes.dense,
            actual: bytes.actual,
        }
    }
}

impl Record {
    /// What a run's report says about the question `id`, asked under the label `policy`. `ttft_ms` are the
    /// milliseconds that passed before the first token was there, which a report does not have.
    pub fn new(id: &str, policy: &str, ttft_ms: f64, report: &RunReport) -> Self {
        let n_vision: usize = report.image_spans.iter().map(|[_, len]| len).sum();
        let n_text = report.n_tokens - n_vision;
        let mut tokens = Fnv::default();
        report
            .generated
            .iter()
            .for_each(|token| tokens.add(&token.to_le_bytes()));
        Self {
            id: id.to_owned(),
            policy: policy.to_owned(),
            text: report.text.clone(),
            tokens: tokens.to_string(),
            n_generated: report.generated.len(),
            n_vision,
            n_kept: report.chosen().map_or(n_vision, <[u32]>::len),
            flops_paper: report.flops.paper.into(),
            flops_model: report.flops.model.into(),
            vision_attention: report.flops.vision_attention.into(),
            vision_rows: Spent {
                dense: (n_vision * report.n_layer) as u64,
                actual: report
                    .layers
                    .iter()
                    .map(|layer| layer.rows.saturating_sub(n_text) as u64)
                    .sum(),
            },
            kv_bytes: report.kv_bytes.into(),
            ttft_ms,
            encode_ms: report.times_ms.encode,
            prefill_ms: report.times_ms.prefill,
            decode_ms: report.times_ms.decode,
            skipped: report.skipped.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record that cost a quarter of everything.
    pub fn record(id: &str, policy: &str, text: &str) -> Record {
        let quarter = Spent {
            dense: 400,
            actual: 100,
        };
        Record {
            id: id.to_owned(),
            policy: policy.to_owned(),
            text: text.to_owned(),
            tokens: "0".to_owned(),
            n_generated: 1,
            n_vision: 64,
            n_kept: 16,
            flops_paper: quarter,
            flops_model: quarter,
            vision_attention: quarter,
            vision_rows: quarter,
            kv_bytes: quarter,
            ttft_ms: 10.0,
            encode_ms: 4.0,
            prefill_ms: 5.0,
            decode_ms: 1.0,
            skipped: None,
        }
    }

    /// Two layers, seven rows of which four are vision; the second layer runs on five.
    #[test]
    fn a_record_follows_from_a_report() {
        let layer = |rows: usize| serde_json::json!({"layer": 0, "rows": rows, "kv": rows, "stage": "dense", "shallow": null, "probe": null});
        let report = RunReport {
            image_spans: vec![[1, 3], [5, 1]],
            n_tokens: 7,
            n_layer: 2,
            layers: serde_json::from_value(serde_json::json!([layer(7), layer(5)])).unwrap(),
            kept: Some(vec![0, 3]),
            generated: vec![4, 5, 6],
            text: " red".to_owned(),
            ..RunReport::default()
        };
        let record = Record::new("q", "off", 12.5, &report);
        assert_eq!(record.vision_rows, Spent { dense: 8, actual: 6 });
        assert_eq!((record.n_vision, record.n_kept, record.n_generated), (4, 2, 3));
        assert_eq!((record.text.as_str(), record.ttft_ms), (" red", 12.5));
        let other = RunReport {
            generated: vec![4, 6, 5],
            ..report
        };
        assert_ne!(Record::new("q", "off", 12.5, &other).tokens, record.tokens);
    }

    /// Policies without a fusion layer: what went on after their first drop, or entered.
    #[test]
    fn what_was_kept_needs_no_fusion_layer() {
        let report = |drops: serde_json::Value| RunReport {
            image_spans: vec![[1, 4]],
            n_tokens: 7,
            drops: serde_json::from_value(drops).unwrap(),
            ..RunReport::default()
        };
        let drop = |layer: Option<usize>, kept: &[u32]| serde_json::json!({"layer": layer, "n_kept": kept.len(), "kept": kept, "kept_pos": kept});
        let n_kept = |drops| Record::new("q", "fastv", 1.0, &report(drops)).n_kept;
        assert_eq!(n_kept(serde_json::json!([])), 4);
        assert_eq!(
            n_kept(serde_json::json!([drop(Some(1), &[0, 3]), drop(Some(5), &[])])),
            2
        );
        assert_eq!(n_kept(serde_json::json!([drop(None, &[0])])), 1);
    }

    #[test]
    fn every_key_is_documented() {
        let docs = include_str!("../../docs/eval.md");
        let skipped = Record {
            skipped: Some("off".to_owned()),
            ..record("q", "off", "red")
        };
        let json = serde_json::to_value(skipped).unwrap();
        for key in json.as_object().unwrap().keys() {
            assert!(
                docs.contains(&format!("`{key}`")),
                "docs/eval.md does not mention `{key}`"
            );
        }
    }
}
