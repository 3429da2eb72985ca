//! Fills in the report of a run.

use std::time::{Duration, Instant};

use super::policy::AnyPolicy;
use super::request::Request;
use crate::engine::Model;
use crate::engine::cache::{Cache, Read, Turn};
use crate::engine::model::model_shape;
use crate::engine::options::KvType;
use crate::engine::prompt::{EncodedBy, EncodedPrompt};
use crate::ffi::{Fallbacks, KvUsage};
use crate::policy::cost::{KvBytes, prefill_flops};
use crate::policy::trace::{LayerTrace, PrefillTrace};
use crate::policy::{PolicyConfig, Stage};
use crate::report::{Fallback, RunReport, TimesMs};

/// What is known before anything runs.
pub(crate) fn start(model: &Model, policy: &AnyPolicy, encoder: Option<&EncodedBy>) -> RunReport {
    let load = model.load_time() + encoder.map_or(Duration::ZERO, |encoder| encoder.load_time);
    let own = match policy {
        AnyPolicy::Own(own) => Some(own.name()),
        AnyPolicy::Config(_) => None,
    };
    RunReport {
        model: model.path().display().to_string(),
        mmproj: encoder.map(|encoder| encoder.path.display().to_string()),
        policy: policy.config().cloned().unwrap_or(PolicyConfig::Off),
        custom_policy: own,
        times_ms: TimesMs {
            load: ms(load),
            ..TimesMs::default()
        },
        ..RunReport::default()
    }
}

/// What the prefill did, beside what [`start`] knew.
pub(crate) fn prefill(
    report: RunReport,
    cache: &mut Cache,
    request: &Request,
    prompt: &EncodedPrompt,
    read: &Read,
) -> RunReport {
    let trace = &read.trace;
    let kv = kv_usage(cache);
    let n_cells = n_cells(cache, &read.turn).unwrap_or_else(|| trace.n_cells());
    let kv_allocated_bytes = kv.iter().map(|layer| layer.allocated_bytes as u64).sum();
    let cell_bytes: Vec<usize> = kv.iter().map(|layer| layer.cell_bytes).collect();
    let encoder = prompt.encoded_by.as_ref();
    let shape = model_shape(
        cache.model().shape(),
        encoder.and_then(|encoder| encoder.n_tokens_per_image),
    );
    let vision = encoder.map(|encoder| &encoder.shape);
    let logits = request
        .report_logits
        .then(|| cache.context().ok()?.logits(None).map(<[f32]>::to_vec))
        .flatten();
    let times_ms = TimesMs {
        policy: ms(trace.policy_time),
        ..report.times_ms
    };
    RunReport {
        model: report.model,
        mmproj: report.mmproj,
        policy: report.policy,
        custom_policy: report.custom_policy,
        times_ms,
        warnings: report.warnings,
        logits,
        flops: prefill_flops(&shape, vision, &prompt.layout, !prompt.non_causal, trace).into(),
        kv_bytes: KvBytes::of(prompt.layout.n_rows, &n_cells, &cell_bytes),
        kv_allocated_bytes,
        n_turns: prompt.turns.len(),
        reused_rows: read.reused.n_rows,
        frontier: read.reused.frontier,
        ..RunReport::of_prefill(
            &prompt.layout,
            &prompt.token,
            trace,
            &n_cells,
            request.report_probes,
        )
    }
}

/// The answer. `decode_time` is the time that generating it took.
pub(crate) fn answer(
    report: &mut RunReport,
    cache: &mut Cache,
    turn: Option<&Turn>,
    text: &str,
    tokens: &[i32],
    began: Instant,
    decode_time: Duration,
) {
    let n_cells = turn.and_then(|turn| n_cells(cache, turn));
    report.kv_final = n_cells.unwrap_or_default();
    report.text = text.to_owned();
    report.generated = tokens.to_vec();
    report.times_ms.decode = ms(decode_time);
    report.times_ms.total = report.times_ms.load + ms(began.elapsed());
    let per_second = tokens.len() as f64 / decode_time.as_secs_f64();
    report.tokens_per_second = (!tokens.is_empty() && per_second.is_finite()).then_some(per_second);
}

/// What has been computed elsewhere than on its layer's device since the counts were `before`.
pub(crate) fn fallbacks(cache: &mut Cache, before: &Fallbacks) -> Vec<Fallback> {
    let now = cache
        .context()
        .map(|context| context.fallbacks())
        .unwrap_or_default();
    now.into_iter()
        .filter_map(|(key, n)| {
            // a context that was made anew counts from the beginning
            let n = n.checked_sub(before.get(&key).copied().unwrap_or(0)).unwrap_or(n);
            let (op, device) = key;
            (n > 0).then_some(Fallback { op, device, n })
        })
        .collect()
}

/// The KV cache of each layer; none for models that keep none per layer.
fn kv_usage(cache: &mut Cache) -> Vec<KvUsage> {
    let n_layer = cache.model().n_layer();
    let Ok(context) = cache.context() else {
        return Vec::new();
    };
    let usage: Option<Vec<KvUsage>> = (0..n_layer).map(|il| context.kv_usage(il).ok()).collect();
    usage.unwrap_or_default()
}

/// The cells that each layer has of a turn; `None` for models that keep none per layer.
fn n_cells(cache: &mut Cache, turn: &Turn) -> Option<Vec<usize>> {
    let n_layer = cache.model().n_layer();
    let context = cache.context().ok()?;
    let of_layer = |il| context.n_cells_of(turn.sequence(), il).ok().map(|n| n as usize);
    (0..n_layer).map(of_layer).collect()
}

/// A warning if the prompt is longer than what the model was trained for.
pub(crate) fn beyond_training(model: &Model, prompt: &EncodedPrompt) -> Option<String> {
    let n_ctx_train = model.native().n_ctx_train();
    let n_pos = prompt.next_pos;
    (i64::from(n_pos) > i64::from(n_ctx_train)).then(|| {
        format!(
            "the prompt takes {n_pos} positions, the model was trained with {n_ctx_train}: expect nonsense"
        )
    })
}

/// What the user should know about the decisions of a prefill: with a quantized KV cache they may be off.
pub(crate) fn warnings(policy: &AnyPolicy, kv_types: [KvType; 2], trace: &PrefillTrace) -> Vec<String> {
    let Some(policy) = policy.config().and_then(PolicyConfig::visipruner) else {
        return Vec::new();
    };
    let Some(ty) = kv_types.into_iter().find(|ty| ty.is_quantized()) else {
        return Vec::new();
    };
    let close: Vec<String> = trace
        .layers
        .iter()
        .enumerate()
        .filter(|(_, layer)| {
            let threshold = if layer.stage == Stage::Deep {
                policy.exit_threshold
            } else {
                policy.layer_threshold
            };
            is_close(layer, threshold)
        })
        .map(|(il, _)| il.to_string())
        .collect();
    if close.is_empty() {
        Vec::new()
    } else {
        vec![close_warning(&close, ty)]
    }
}

fn close_warning(layers: &[String], ty: KvType) -> String {
    format!(
        "with a {ty} KV cache the decision at layer(s) {} is too close to its threshold to be certain: use f16 keys and \
         values for one that is",
        layers.join(", ")
    )
}

/// Error of a probe with a quantized KV cache: that of `1 - cos`, relative to the largest `1 - cos` of the layer.
/// Measured with q8_0 on random models.
const QUANTIZED_PROBE_ERROR: f64 = 0.13;

/// Whether the smallest cosine that a layer's probe read may lie on the other side of the threshold.
fn is_close(layer: &LayerTrace, threshold: f64) -> bool {
    let Some(probe) = &layer.probe else {
        return false;
    };
    let Some(min_cos) = probe.cos.iter().copied().reduce(f64::min) else {
        return false;
    };
    let (turn, threshold) = (1.0 - min_cos, 1.0 - threshold);
    (turn - threshold).abs() <= QUANTIZED_PROBE_ERROR * turn
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PromptLayout;
    use crate::policy::Skipped;
    use crate::policy::config::VisiPrunerConfig;
    use crate::policy::trace::ProbeTrace;

    fn trace(min_cos: f64) -> PrefillTrace {
        let layout = PromptLayout {
            n_rows: 4,
            vision: vec![1..3, 3..4],
        };
        let mut trace = PrefillTrace::dense(&layout, 3, Skipped::Off);
        trace.layers[1].probe = Some(ProbeTrace {
            tokens: Vec::new(),
            cos: vec![1.0, min_cos],
            norm: vec![0.0; 2],
            output_norm: 1.0,
        });
        trace
    }

    #[test]
    fn only_a_quantized_cache_and_a_close_decision_warn() {
        let policy = AnyPolicy::Config(PolicyConfig::VisiPruner(VisiPrunerConfig::default()));
        let f16 = [KvType::F16; 2];
        let q8_0 = [KvType::Q8_0, KvType::F16];
        assert_eq!(warnings(&policy, f16, &trace(0.9952)), Vec::<String>::new());
        assert_eq!(warnings(&policy, q8_0, &trace(0.98)), Vec::<String>::new());
        assert_eq!(warnings(&policy, q8_0, &trace(0.9999)), Vec::<String>::new());
        let close = warnings(&policy, q8_0, &trace(0.9952));
        assert!(
            close[0].contains("layer(s) 1 ") && close[0].contains("q8_0"),
            "{close:?}"
        );
    }
}
