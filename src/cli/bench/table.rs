//! The results as a table.

use visipruner::report::summary;

use super::result::{BenchReport, Case, Measured, VariantResult, Work};
use crate::cli::units;

const HEADINGS: [&str; 11] = [
    "",
    "prefill",
    "speedup",
    "ideal",
    "efficiency",
    "roofline",
    "first token",
    "decode",
    "KV held",
    "KV allocated",
    "peak memory",
];

const FURTHER_HEADINGS: [&str; 7] = [
    "",
    "prefill",
    "first / further",
    "speedup",
    "decode",
    "rows reused",
    "held between",
];

const TOGETHER_HEADINGS: [&str; 3] = ["", "tokens/s", "together / alone"];

/// The table of each case, with what was measured above it and what the columns mean below.
pub fn lines(report: &BenchReport) -> Vec<String> {
    let mut lines = header(report);
    for case in &report.cases {
        lines.push(String::new());
        lines.extend(case_lines(case));
    }
    lines.push(String::new());
    lines.extend(LEGEND.lines().map(str::to_owned));
    if report.cases.iter().any(|case| case.n_questions > 1) {
        lines.extend(FURTHER_LEGEND.lines().map(str::to_owned));
    }
    lines
}

const LEGEND: &str = "\
Medians; +/- is half the distance of the quartiles. speedup: dense / variant, the median over the rounds.
ideal: rows times layers, dense / variant. efficiency: speedup / ideal; in brackets against FLOPs instead of rows.
roofline: what the machine allows, which reads a layer's weights however few rows there are; in brackets the efficiency against it.
* generated other tokens than dense. first token: pictures encoded and prompt read. peak memory: of the process, with the model's file as far as it was read.";

const FURTHER_LEGEND: &str = "\
first / further: the variant's own first question over a further one. held between: keys, values and hidden rows that the
next question comes upon.";

fn header(report: &BenchReport) -> Vec<String> {
    let compute = &report.compute;
    let name = if report.name.is_empty() {
        &report.model
    } else {
        &report.name
    };
    vec![
        format!(
            "{name}: {}, {} layers, {}",
            report.arch,
            report.n_layer,
            units::bytes(report.file_bytes)
        ),
        format!(
            "{}; {} threads, -ngl {}, flash attention {}, KV {}/{}, batches of {}/{}",
            compute.devices.join(", "),
            compute.n_threads,
            compute.n_gpu_layers,
            compute.flash_attn,
            compute.kv_types[0],
            compute.kv_types[1],
            compute.batch[0],
            compute.batch[1]
        ),
    ]
}

fn case_lines(case: &Case) -> Vec<String> {
    let pictures = if case.n_images == 1 { "picture" } else { "pictures" };
    let mut lines = vec![format!(
        "{} {pictures}: {} rows ({} text, {} vision), {} tokens generated, {} rounds; encoding took {}",
        case.n_images,
        case.n_rows,
        case.n_rows - case.n_vision,
        case.n_vision,
        case.n_gen,
        case.n_rounds,
        units::milliseconds(case.encode_ms)
    )];
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(case.variants.iter().map(|variant| cells(case, variant)));
    lines.extend(aligned(&rows));
    lines.extend(case.variants.iter().filter_map(fallbacks));
    lines.extend(further_lines(case));
    lines.extend(together_lines(case));
    lines
}

fn fallbacks(variant: &VariantResult) -> Option<String> {
    let line = summary::fallbacks(&variant.work.as_ref()?.fallbacks)?;
    Some(format!("{}: {line}", variant.label))
}

fn further_lines(case: &Case) -> Vec<String> {
    let mut rows = vec![FURTHER_HEADINGS.map(str::to_owned)];
    for variant in &case.variants {
        let Some(further) = &variant.further else {
            return Vec::new();
        };
        rows.push([
            variant.label.clone(),
            with_spread(&further.prefill_ms),
            format!("{:.1}x", further.speedup_to_first),
            format!("{:.3}x", further.prefill_speedup),
            decode(further.decode_ms_per_token.as_ref(), further.decode_speedup),
            or_dash(further.reused_rows, |n_rows| n_rows.to_string()),
            or_dash(further.held_bytes, units::bytes),
        ]);
    }
    let title = format!(
        "further questions: {} after the first, each of as much text",
        case.n_questions - 1
    );
    [vec![title], aligned(&rows)].concat()
}

fn together_lines(case: &Case) -> Vec<String> {
    let mut rows = vec![TOGETHER_HEADINGS.map(str::to_owned)];
    let mut n_sequences = 0;
    for variant in &case.variants {
        if let Some(together) = &variant.together {
            n_sequences = together.n_sequences;
            rows.push([
                variant.label.clone(),
                format!("{:.1}", 1e3 / together.ms_per_token.median),
                format!("{:.2}x", together.speedup),
            ]);
        }
    }
    if rows.len() == 1 {
        return Vec::new();
    }
    let title = format!("{n_sequences} answers together");
    [vec![title], aligned(&rows)].concat()
}

fn cells(case: &Case, variant: &VariantResult) -> [String; 11] {
    let work = |cell: &dyn Fn(&Work) -> String| or_dash(variant.work.as_ref(), cell);
    let note = if variant.same_tokens { "" } else { " *" };
    [
        format!("{}{note}", variant.label),
        with_spread(&variant.prefill_ms),
        format!("{:.3}x", variant.prefill_speedup),
        work(&|work| format!("{:.3}x", work.ideal_by_rows)),
        work(&|work| format!("{:.3} ({:.3})", work.efficiency_by_rows, work.efficiency_by_flops)),
        work(&|work| {
            let roofline = work.ideal_by_roofline.zip(work.efficiency_by_roofline);
            or_dash(roofline, |(ideal, efficiency)| {
                format!("{ideal:.3}x ({efficiency:.3})")
            })
        }),
        units::milliseconds(case.encode_ms + variant.prefill_ms.median),
        decode(variant.decode_ms_per_token.as_ref(), variant.decode_speedup),
        work(&|work| units::bytes(work.kv_held_bytes)),
        work(&|work| units::bytes(work.kv_allocated_bytes)),
        or_dash(variant.peak_memory_bytes, units::bytes),
    ]
}

fn or_dash<T>(value: Option<T>, cell: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), cell)
}

fn decode(ms_per_token: Option<&Measured>, speedup: Option<f64>) -> String {
    or_dash(ms_per_token.zip(speedup), |(decode, speedup)| {
        format!("{:.1} ms/token {speedup:.3}x", decode.median)
    })
}

fn with_spread(measured: &Measured) -> String {
    format!(
        "{} +/- {:.1} %",
        units::milliseconds(measured.median),
        measured.spread() * 100.0
    )
}

/// Columns as wide as their widest cell: the first to the left, the others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<width$}", width = width(0)),
            _ => format!("{cell:>width$}", width = width(column)),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut rows = vec![["a"; 10].map(str::to_owned), ["bcd"; 10].map(str::to_owned)];
        rows[1][9] = String::new();
        let lines = aligned(&rows);
        assert_eq!(lines[0], "a      a    a    a    a    a    a    a    a  a");
        assert_eq!(lines[1], "bcd  bcd  bcd  bcd  bcd  bcd  bcd  bcd  bcd");
    }
}
