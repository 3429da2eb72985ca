//! What an answer cost, and what was kept for it, in words.

use serde_json::Value;
use visipruner::policy::PolicyConfig;
use visipruner::report::{RunReport, summary};

use super::conversation::Picture;
use crate::cli::mosaic::Kept;
use crate::cli::units;

/// One line after an answer.
///
/// ```text
/// 3 of 64 vision tokens kept; prompt 12 ms (81 of 96 rows read before), answer 9.0 ms: 2 tokens, 75.6 per second
/// ```
pub fn line(report: &RunReport) -> String {
    let mut parts = Vec::new();
    if let Some(kept) = report.chosen() {
        parts.push(format!(
            "{} of {} vision tokens kept",
            kept.len(),
            n_vision(report)
        ));
    }
    parts.push(times(report));
    parts.join("; ")
}

/// `/stats`
pub fn stats(report: &RunReport) -> String {
    let n_generated = report.generated.len();
    let reused = match (report.reused_rows, report.frontier) {
        (0, _) => "nothing was there already".to_owned(),
        (n, None) => format!("{n} of {} tokens were there already", report.n_tokens),
        (n, Some(il)) => format!(
            "{n} of {} tokens were there already, of a picture only what layers 0-{} make of it",
            report.n_tokens,
            il.saturating_sub(1)
        ),
    };
    let rows = [
        (
            "prompt",
            format!(
                "{} tokens, {} of them vision; {} message(s)",
                report.n_tokens,
                n_vision(report),
                report.n_turns
            ),
        ),
        ("answer", format!("{n_generated} token(s)")),
        ("reused", reused),
        (
            "remembered",
            format!("{} for what comes next", units::bytes(report.prefix_bytes)),
        ),
        ("policy", policy(&report.policy)),
        ("work", summary::saved(report)),
        ("time", times(report)),
    ];
    let rows = rows.map(|(name, value)| format!("{name:<12}{value}"));
    rows.join("\n")
}

/// `fastv rank_layers=1 keep=25%`
pub fn policy(policy: &PolicyConfig) -> String {
    let mut words = vec![policy.name().to_string()];
    if let Ok(Value::Object(fields)) = serde_json::to_value(policy) {
        let fields = fields
            .into_iter()
            .filter(|(name, value)| name != "policy" && !value.is_null());
        words.extend(fields.map(|(name, value)| format!("{name}={}", plain(&value))));
    }
    words.join(" ")
}

/// `/kept`, where there is something to be seen: the picture, or a sentence where it cannot be shown.
pub fn kept(report: &RunReport, i_image: usize, picture: &Picture, is_terminal: bool) -> String {
    let name = picture.name();
    let Some(kept) = Kept::of(report, i_image, &picture.image) else {
        let reason = report
            .skipped
            .as_ref()
            .map_or(String::new(), |reason| format!(" ({reason})"));
        return format!("nothing of {name} was dropped{reason}");
    };
    let place = match report.chosen_after() {
        Some(il) => format!("after layer {il}"),
        None => "before layer 0".to_owned(),
    };
    let sentence = format!(
        "{} of {} vision tokens of {name} went on {place}",
        kept.n_kept, kept.n_vision
    );
    match kept.picture {
        Some((_, lines)) if is_terminal => format!(
            "{sentence}; those that were dropped are dimmed:\n{}",
            lines.join("\n")
        ),
        Some(_) => format!("{sentence} (a terminal shows which)"),
        None => format!("{sentence} (they form no square that could be shown)"),
    }
}

fn n_vision(report: &RunReport) -> usize {
    report.image_spans.iter().map(|[_, n]| n).sum()
}

/// `images 95 ms, prompt 12 ms, answer 9.0 ms: 2 tokens, 75.6 per second`
fn times(report: &RunReport) -> String {
    let times = summary::times(report);
    // Models are loaded once, before the conversation.
    match times.split_once(", ") {
        Some((load, rest)) if load.starts_with("load ") => rest.to_owned(),
        _ => times,
    }
}

/// A value as it is written after `FIELD=`.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use visipruner::engine::Image;

    use super::*;
    use crate::cli::args::spec::PolicySpec;

    fn report() -> RunReport {
        let mut report = RunReport {
            n_tokens: 96,
            image_spans: vec![[5, 64]],
            kept: Some(vec![0, 9, 63]),
            fusion_layer: Some(3),
            reused_rows: 81,
            generated: vec![1, 2],
            ..RunReport::default()
        };
        report.times_ms.prefill = 12.0;
        report
    }

    #[test]
    fn one_line_says_what_was_there() {
        assert_eq!(
            line(&report()),
            "3 of 64 vision tokens kept; images 0.0 ms, prompt 12 ms (81 of 96 rows read before), answer 0.0 ms: 2 tokens"
        );
        assert_eq!(
            line(&RunReport::default()),
            "prompt 0.0 ms, answer 0.0 ms: 0 tokens"
        );
    }

    #[test]
    fn a_frontier_is_told_in_layers() {
        let report = RunReport {
            frontier: Some(4),
            ..report()
        };
        assert!(stats(&report).contains("layers 0-3"), "{}", stats(&report));
    }

    #[test]
    fn what_was_kept_is_shown_or_said() {
        let picture = Picture {
            path: "/x/cat.png".into(),
            image: Rc::new(Image::from_rgb8(8, 8, vec![9; 192]).expect("an image")),
        };
        let said = kept(&report(), 0, &picture, false);
        assert!(
            said.starts_with("3 of 64 vision tokens of cat.png went on after layer 3 ("),
            "{said}"
        );
        assert_eq!(kept(&report(), 0, &picture, true).lines().count(), 9);
        let dense = RunReport {
            kept: None,
            skipped: Some("the policy is off".to_owned()),
            ..report()
        };
        assert_eq!(
            kept(&dense, 0, &picture, true),
            "nothing of cat.png was dropped (the policy is off)"
        );
    }

    #[test]
    fn a_policy_is_said_as_it_is_set() {
        for text in ["fastv rank_layers=1,4 keep=25%,3", "off", "vtw exit_from=4"] {
            let spec: PolicySpec = text
                .replacen(' ', ":", 1)
                .replace(' ', ",")
                .parse()
                .expect("a policy");
            let config = spec.overrides().unwrap().apply(&PolicyConfig::Off).unwrap();
            assert_eq!(policy(&config), text);
        }
    }
}
