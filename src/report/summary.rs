//! The report in two lines, for people: what was saved, and where the time went.

use super::{Fallback, LayerReport, RunReport};

/// Consecutive layers that computed the same number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRun {
    /// First layer.
    pub il_first: usize,
    /// Last layer.
    pub il_last: usize,
    /// Rows that each of them computed.
    pub n_rows: usize,
}

/// The layers of a prefill as runs of equal row counts.
pub fn row_runs(layers: &[LayerReport]) -> Vec<RowRun> {
    layers
        .chunk_by(|a, b| a.rows == b.rows)
        .map(|run| RowRun {
            il_first: run[0].layer,
            il_last: run[run.len() - 1].layer,
            n_rows: run[0].rows,
        })
        .collect()
}

/// Both lines, with a line break between them and none at the end.
pub fn two_lines(report: &RunReport) -> String {
    format!("{}\n{}", saved(report), times(report))
}

/// What pruning saved, or why nothing was pruned.
///
/// ```text
/// pruned: 624 rows in layers 0-18, 58 in 19-27, 48 in 28-31 (vision tokens: 576, 10 after layer 18, none after 27);
/// prefill 62% of the FLOPs, KV cache 124 of 312 MiB (40%)
/// ```
pub fn saved(report: &RunReport) -> String {
    if report.layers.is_empty() {
        return String::from("nothing was pruned: stopped before the prompt had been read");
    }
    if let Some(reason) = &report.skipped {
        return format!("nothing was pruned: {reason}");
    }
    let rows = rows(&row_runs(&report.layers)) + &several_drops(report);
    let flops = report.flops.model.ratio.map_or(String::new(), |ratio| {
        format!("; prefill {} of the FLOPs", percent(ratio))
    });
    let kv = report.kv_bytes;
    let mut line = format!("pruned: {rows}{flops}");
    if kv.dense > 0 {
        let ratio = kv.actual as f64 / kv.dense as f64;
        line += &format!(
            ", KV cache {} ({})",
            bytes_of(kv.actual, kv.dense),
            percent(ratio)
        );
    }
    line
}

/// Where the time went.
///
/// ```text
/// load 812 ms, images 95 ms, prompt 620 ms (policy 4 ms), answer 410 ms: 31 tokens, 75.6 per second
/// ```
pub fn times(report: &RunReport) -> String {
    let times = report.times_ms;
    let images = if report.image_spans.is_empty() {
        String::new()
    } else {
        format!("images {}, ", ms(times.encode))
    };
    let mut notes = Vec::new();
    if report.reused_rows > 0 {
        notes.push(format!(
            "{} of {} rows read before",
            report.reused_rows, report.n_tokens
        ));
    }
    if times.policy > 0.0 {
        notes.push(format!("policy {}", ms(times.policy)));
    }
    let notes = if notes.is_empty() {
        String::new()
    } else {
        format!(" ({})", notes.join(", "))
    };
    let n = report.generated.len();
    let tokens = if n == 1 { "token" } else { "tokens" };
    let speed = report
        .tokens_per_second
        .map_or(String::new(), |speed| format!(", {speed:.1} per second"));
    format!(
        "load {}, {images}prompt {}{notes}, answer {}: {n} {tokens}{speed}",
        ms(times.load),
        ms(times.prefill),
        ms(times.decode),
    )
}

/// What was computed elsewhere than on the device of its layer; `None` if nothing was.
///
/// ```text
/// not on the device of their layer: FLASH_ATTN_EXT (CPU, 64 times), GET_ROWS (CPU, 2 times)
/// ```
pub fn fallbacks(fallbacks: &[Fallback]) -> Option<String> {
    let times = |n| {
        if n == 1 {
            "once".to_owned()
        } else {
            format!("{n} times")
        }
    };
    let words: Vec<String> = fallbacks
        .iter()
        .map(|Fallback { op, device, n }| format!("{op} ({device}, {})", times(*n)))
        .collect();
    (!words.is_empty()).then(|| format!("not on the device of their layer: {}", words.join(", ")))
}

fn rows(runs: &[RowRun]) -> String {
    let mut parts = Vec::with_capacity(runs.len());
    for (i, run) in runs.iter().enumerate() {
        let layers = if run.il_first == run.il_last {
            run.il_first.to_string()
        } else {
            format!("{}-{}", run.il_first, run.il_last)
        };
        let words = if i == 0 { "rows in layers" } else { "in" };
        parts.push(format!("{} {words} {layers}", run.n_rows));
    }
    parts.join(", ")
}

/// ` (vision tokens: 576, 10 after layer 18, none after 27)`, where vision tokens were dropped more than once.
fn several_drops(report: &RunReport) -> String {
    if report.drops.len() < 2 {
        return String::new();
    }
    let n_vision: usize = report.image_spans.iter().map(|[_, n_rows]| n_rows).sum();
    let mut words = format!(" (vision tokens: {n_vision}");
    let mut is_first_layer = true;
    for drop in &report.drops {
        let n_kept = match drop.n_kept {
            0 => String::from("none"),
            n => n.to_string(),
        };
        words += &match drop.layer {
            None => format!(", {n_kept} entered"),
            Some(il) if is_first_layer => format!(", {n_kept} after layer {il}"),
            Some(il) => format!(", {n_kept} after {il}"),
        };
        is_first_layer = is_first_layer && drop.layer.is_none();
    }
    words + ")"
}

/// Whole percents; a share that is not nothing is at least "<1%".
fn percent(ratio: f64) -> String {
    if ratio > 0.0 && ratio < 0.01 {
        String::from("<1%")
    } else {
        format!("{:.0}%", ratio * 100.0)
    }
}

/// Milliseconds, with a decimal where there are few; seconds from ten seconds on.
fn ms(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// `a of b` in the largest unit that leaves `b` at least 1.
fn bytes_of(a: u64, b: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("bytes", 1)];
    let (unit, size) = UNITS
        .into_iter()
        .find(|&(_, size)| b >= size)
        .unwrap_or(("bytes", 1));
    let number = |n: u64| match n as f64 / size as f64 {
        n if size == 1 || n >= 100.0 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    };
    format!("{} of {} {unit}", number(a), number(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::DropReport;
    use crate::report::tests::sample;

    #[test]
    fn both_lines() {
        insta::assert_snapshot!(two_lines(&sample()), @r"
        pruned: 12 rows in layers 0-4, 7 in 5-6, 5 in 7-9 (vision tokens: 7, 2 after layer 4, none after 6); prefill 75% of the FLOPs, KV cache 45.0 of 60.0 KiB (75%)
        load 812 ms, images 95 ms, prompt 620 ms (policy 0.2 ms), answer 410 ms: 2 tokens, 4.9 per second
        ");
    }

    #[test]
    fn what_was_there_is_told() {
        let mut report = sample();
        report.reused_rows = 9;
        assert!(times(&report).contains("prompt 620 ms (9 of 12 rows read before, policy 0.2 ms), answer"));
    }

    #[test]
    fn one_drop_needs_no_list_and_what_entered_is_told_apart() {
        let mut report = sample();
        report.drops.truncate(1);
        assert_eq!(several_drops(&report), "");
        let entered = DropReport {
            n_kept: 4,
            ..DropReport::default()
        };
        report.drops.insert(0, entered);
        assert_eq!(
            several_drops(&report),
            " (vision tokens: 7, 4 entered, 2 after layer 4)"
        );
    }

    #[test]
    fn nothing_pruned_says_why() {
        let report = RunReport {
            skipped: Some(String::from("the prompt has no image")),
            ..sample()
        };
        assert_eq!(saved(&report), "nothing was pruned: the prompt has no image");
    }

    #[test]
    fn a_prompt_that_was_not_read_has_no_rows_to_tell_of() {
        let report = RunReport {
            layers: Vec::new(),
            ..sample()
        };
        assert_eq!(
            saved(&report),
            "nothing was pruned: stopped before the prompt had been read"
        );
    }

    #[test]
    fn runs_partition_the_layers() {
        let runs = row_runs(&sample().layers);
        assert_eq!(runs.iter().map(|run| run.n_rows).collect::<Vec<_>>(), [12, 7, 5]);
        assert_eq!((runs[0].il_first, runs[2].il_last), (0, 9));
        assert!(
            runs.windows(2)
                .all(|pair| pair[0].il_last + 1 == pair[1].il_first)
        );
    }

    #[test]
    fn a_text_prompt_mentions_no_images_and_no_policy() {
        let mut report = RunReport {
            generated: vec![5],
            ..RunReport::default()
        };
        report.times_ms.prefill = 12_345.0;
        assert_eq!(
            times(&report),
            "load 0.0 ms, prompt 12.3 s, answer 0.0 ms: 1 token"
        );
    }

    #[test]
    fn what_was_computed_elsewhere_is_counted() {
        assert_eq!(fallbacks(&[]), None);
        let fallback = |op: &str, n| Fallback {
            op: op.to_owned(),
            device: "CPU".to_owned(),
            n,
        };
        assert_eq!(
            fallbacks(&[fallback("FLASH_ATTN_EXT", 64), fallback("GET_ROWS", 1)]).as_deref(),
            Some("not on the device of their layer: FLASH_ATTN_EXT (CPU, 64 times), GET_ROWS (CPU, once)")
        );
    }

    #[test]
    fn sizes_have_one_unit() {
        assert_eq!(bytes_of(0, 12), "0 of 12 bytes");
        assert_eq!(bytes_of(1536, 3072), "1.5 of 3.0 KiB");
        assert_eq!(bytes_of(130 << 20, 312 << 20), "130 of 312 MiB");
        assert_eq!(bytes_of(512 << 20, 1 << 30), "0.5 of 1.0 GiB");
    }

    #[test]
    fn small_shares_are_not_called_nothing() {
        assert_eq!([0.0, 0.004, 0.4].map(percent), ["0%", "<1%", "40%"]);
    }
}
