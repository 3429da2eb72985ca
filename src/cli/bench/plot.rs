//! The results as a picture: every variant as a share of the model as it is, with a tick where the saved work would put
//! it.

use visipruner::plot::{Axis, Bar, BarChart, BarGroup};

use super::result::{BenchReport, Case, Measured, VariantResult, Work};
use crate::cli::units;

/// The chart as an SVG document.
pub fn svg(report: &BenchReport) -> String {
    let name = if report.name.is_empty() {
        &report.model
    } else {
        &report.name
    };
    let chart = BarChart {
        title: format!("Pruned against dense: {name}"),
        subtitle: format!(
            "{}, {} threads; medians of {} rounds",
            report.compute.devices.join(", "),
            report.compute.n_threads,
            report.cases[0].n_rounds
        ),
        axis: Axis {
            title: "share of dense".to_owned(),
            suffix: " %".to_owned(),
            ..Axis::default()
        },
        groups: report.cases.iter().flat_map(groups).collect(),
        ideal: "what the rows left promise".to_owned(),
    };
    chart.to_svg()
}

fn groups(case: &Case) -> Vec<BarGroup> {
    let pictures = if case.n_images == 1 { "picture" } else { "pictures" };
    let name = |what: &str| format!("{what}, {} {pictures} ({} rows)", case.n_images, case.n_rows);
    let dense = &case.variants[0];
    let group = |what: &str, bar: &dyn Fn(&VariantResult) -> Option<Bar>| BarGroup {
        name: name(what),
        bars: case.variants.iter().filter_map(bar).collect(),
    };
    let mut groups = vec![group("prefill", &|variant| {
        let ideal = variant.work.as_ref().map(|work| 100.0 / work.ideal_by_rows);
        Some(Bar {
            ideal: ideal.filter(|_| variant.label != dense.label),
            ..time_bar(
                variant,
                &dense.prefill_ms,
                &variant.prefill_ms,
                variant.prefill_speedup,
            )
        })
    })];
    if let Some(dense_decode) = &dense.decode_ms_per_token {
        groups.push(group("decode", &|variant| {
            let decode = variant.decode_ms_per_token.as_ref()?;
            Some(time_bar(variant, dense_decode, decode, variant.decode_speedup?))
        }));
    }
    groups.push(group("KV cache held", &|variant| {
        let (work, dense) = (variant.work.as_ref()?, dense.work.as_ref()?);
        Some(kv_bar(&variant.label, work, dense))
    }));
    groups
}

fn time_bar(variant: &VariantResult, dense: &Measured, time: &Measured, speedup: f64) -> Bar {
    let percent = |ms: f64| 100.0 * ms / dense.median;
    let text = format!("{} ({speedup:.2}x)", units::milliseconds(time.median));
    Bar {
        name: variant.label.clone(),
        value: 100.0 / speedup,
        interval: Some(time.quartiles.map(percent)),
        ideal: None,
        tooltip: format!("{}: {text}, {} rounds", variant.label, time.samples.len()),
        text,
    }
}

fn kv_bar(label: &str, work: &Work, dense: &Work) -> Bar {
    let text = units::bytes(work.kv_held_bytes);
    Bar {
        name: label.to_owned(),
        value: 100.0 * work.kv_held_bytes as f64 / dense.kv_held_bytes as f64,
        tooltip: format!("{label}: {text}"),
        text,
        ..Bar::default()
    }
}
