//! What requests say of pruning, and what they hear of it.

use serde::Serialize;
use serde_json::{Value, json};

use super::ApiError;
use crate::engine::MediaSpan;
use crate::policy::config::PolicyChoice;
use crate::policy::{PolicyConfig, PolicyOverrides, presets};
use crate::report::RunReport;
use crate::report::summary::row_runs;
use crate::server::options::ModelSpec;
use crate::server::worker::Worker;

/// The policy of a request: the model's, over it what its name came with, over it the fields of `visipruner`.
///
/// # Errors
/// 400 for fields that are none, or that do not fit the model.
pub(super) fn policy(
    spec: &ModelSpec,
    worker: &Worker,
    of_name: Option<PolicyChoice>,
    fields: Option<&Value>,
) -> Result<Option<PolicyConfig>, ApiError> {
    let mut overrides = match fields {
        None | Some(Value::Null) => PolicyOverrides::default(),
        Some(fields) => {
            serde_json::from_value(fields.clone()).map_err(|error| ApiError::field("visipruner", error))?
        }
    };
    overrides.policy = overrides.policy.or(of_name);
    if overrides == PolicyOverrides::default() {
        return Ok(None);
    }
    let own = &spec.session.policy;
    let policy = match overrides.policy {
        // another policy than the server's starts from what is known of the model
        Some(choice) if choice != own.name() => presets::resolve(&worker.shape(), None, &overrides)?.policy,
        _ => overrides.apply(own)?,
    };
    policy.validate_for(worker.model().n_layer())?;
    Ok(Some(policy))
}

/// What became of a picture.
#[derive(Debug, Serialize)]
struct Picture {
    /// Which of the request's pictures, from 0.
    picture: usize,
    /// Which tile of it.
    tile: usize,
    /// First row in the prompt, and rows.
    rows: [usize; 2],
    /// Columns and lines of the grid that its tokens form.
    grid: Option<[usize; 2]>,
    /// What the grid covers of the picture: left, top, width, height as shares of it.
    covers: Option<[f32; 4]>,
    /// For each drop, its tokens that went on, counted from 0 within the picture.
    kept: Vec<Vec<usize>>,
}

/// What a request that asked for it hears of pruning.
pub(super) fn told(report: &RunReport, media: &[MediaSpan]) -> Value {
    let rows: usize = report.layers.iter().map(|layer| layer.rows).sum();
    let pictures: Vec<Picture> = media.iter().map(|media| picture(report, media)).collect();
    let runs: Vec<[usize; 3]> = row_runs(&report.layers)
        .into_iter()
        .map(|run| [run.il_first, run.il_last, run.n_rows])
        .collect();
    json!({
        "policy": report.policy,
        "not_pruned_because": report.skipped,
        "n_tokens": report.n_tokens,
        "n_layer": report.n_layer,
        "fusion_layer": report.fusion_layer,
        "exit_layer": report.exit_layer,
        "drops": report.drops.iter().map(|drop| json!({"after_layer": drop.layer, "n_kept": drop.n_kept})).collect::<Vec<_>>(),
        "pictures": pictures,
        "layer_rows": runs,
        "rows": {"dense": report.n_tokens * report.layers.len(), "computed_or_kept": rows, "read_before": report.reused_rows},
        "flops": {"dense": report.flops.model.dense, "actual": report.flops.model.actual, "computed": report.flops.computed},
        "kv_bytes": {"dense": report.kv_bytes.dense, "actual": report.kv_bytes.actual},
        "kept_bytes": report.prefix_bytes,
        "times_ms": report.times_ms,
        "warnings": report.warnings,
    })
}

fn picture(report: &RunReport, media: &MediaSpan) -> Picture {
    let within = |rows: &[u32]| {
        let rows = rows.iter().map(|&row| row as usize);
        let rows = rows.filter(|row| media.rows.contains(row));
        rows.map(|row| row - media.rows.start).collect()
    };
    Picture {
        picture: media.item,
        tile: media.tile,
        rows: [media.rows.start, media.rows.len()],
        grid: media.grid.map(|(columns, lines)| [columns, lines]),
        covers: media.covers,
        kept: report.drops.iter().map(|drop| within(&drop.kept_pos)).collect(),
    }
}
