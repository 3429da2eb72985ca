use super::*;
use crate::policy::Stage;

pub mod synthetic;

fn all() -> [(&'static str, Inspection); 5] {
    [
        ("small", synthetic::small()),
        ("large", synthetic::large()),
        ("two-images", synthetic::two_images()),
        ("without-fusion", synthetic::without_fusion()),
        ("one-layer", synthetic::one_layer()),
    ]
}

/// The text of a script element, by its id.
fn script<'a>(html: &'a str, id: &str) -> &'a str {
    let (_, after) = html
        .split_once(&format!("id=\"{id}\">"))
        .expect("the element is there");
    after.split_once("</script>").expect("and ends").0
}

/// Reports and their parts can be written; into a folder of one's own with `VP_REPORTS`, for eyes.
#[test]
fn reports_for_eyes() {
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = std::env::var("VP_REPORTS").unwrap_or_else(|_| elsewhere.path().display().to_string());
    for (name, inspection) in all() {
        let html = inspection.to_html().unwrap();
        assert!(html.trim_end().ends_with("</html>"), "{name}");
        std::fs::write(format!("{folder}/{name}.html"), html).unwrap();
        #[cfg(feature = "cli")]
        inspection
            .write_parts(std::path::Path::new(&format!("{folder}/{name}-parts")))
            .unwrap();
    }
}

#[test]
fn what_is_written_is_read_back() {
    for (name, inspection) in all() {
        let json = inspection.to_json().unwrap();
        let read: Inspection = serde_json::from_str(&json).unwrap();
        assert_eq!(read.images, inspection.images, "{name}");
        assert_eq!(read.prompt, inspection.prompt, "{name}");
        assert_eq!(read.others, inspection.others, "{name}");
        assert_eq!(read.to_json().unwrap(), json, "{name}: rounded once is rounded");
        for (read, written) in read.layers.iter().zip(&inspection.layers) {
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 5e-4 * b.abs();
            assert!(read.norm.iter().zip(&written.norm).all(near), "{name}");
            assert!(
                read.cos
                    .iter()
                    .zip(&written.cos)
                    .all(|(a, b)| (a - b).abs() <= 0.51e-7),
                "{name}"
            );
        }
    }
}

#[test]
fn the_report_holds_the_same_data_and_every_layer() {
    for (name, inspection) in all() {
        let html = inspection.to_html().unwrap();
        let data: Inspection = serde_json::from_str(script(&html, "data")).unwrap();
        assert_eq!(data.to_json().unwrap(), inspection.to_json().unwrap(), "{name}");
        assert_eq!(data.layers.len(), inspection.n_layer, "{name}");
        let derived: serde_json::Value = serde_json::from_str(script(&html, "derived")).unwrap();
        assert_eq!(
            derived["sinks"].as_array().map(Vec::len),
            Some(inspection.n_layer),
            "{name}"
        );
    }
}

/// All numbers, as they are written.
fn numbers(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Number(number) => found.push(number.to_string()),
        serde_json::Value::Array(values) => values.iter().for_each(|value| numbers(value, found)),
        serde_json::Value::Object(fields) => fields.values().for_each(|value| numbers(value, found)),
        _ => {}
    }
}

#[test]
fn numbers_have_few_digits() {
    let inspection = synthetic::large();
    let value: serde_json::Value = serde_json::from_str(&inspection.to_json().unwrap()).unwrap();
    let mut found = Vec::new();
    numbers(&value["layers"], &mut found);
    assert!(found.len() > 4 * 32 * 576);
    for number in found {
        let mantissa = number
            .split('e')
            .next()
            .unwrap_or_default()
            .trim_start_matches('-');
        let digits = mantissa.replace('.', "");
        assert!(digits.trim_start_matches('0').len() <= 8, "{number}");
    }
    assert!(
        inspection.to_html().unwrap().len() < 900_000,
        "a report of 576 tokens and 32 layers"
    );
}

#[test]
fn whatever_was_asked_stays_text() {
    let nasty = "</script><script>alert(1)</script><!--<script> {{style}} & \"q\" ]]>";
    let mut inspection = synthetic::small();
    let plain = inspection.to_html().unwrap();
    inspection.question = nasty.to_owned();
    inspection.answer = nasty.to_owned();
    inspection.model = nasty.to_owned();
    inspection.images[0].name = nasty.to_owned();
    inspection.layers[3].top[0].text = nasty.to_owned();
    inspection.others[0].policy = nasty.to_owned();
    if let Some(policy) = &mut inspection.policy {
        policy.label = nasty.to_owned();
    }
    let html = inspection.to_html().unwrap();
    for tag in ["<script", "</script", "<!--", "<style", "</style"] {
        assert_eq!(html.matches(tag).count(), plain.matches(tag).count(), "{tag}");
    }
    let data: Inspection = serde_json::from_str(script(&html, "data")).unwrap();
    assert_eq!((data.question.as_str(), data.answer.as_str()), (nasty, nasty));
    assert!(
        html.contains("&lt;/script&gt;&lt;script&gt;alert(1)"),
        "the title"
    );
}

/// Scripts set text as text, and nothing is loaded.
#[test]
fn the_page_stands_alone() {
    let html = synthetic::small().to_html().unwrap();
    for way_in in [
        "innerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "@import",
        "fetch(",
        "src=\"",
        "<link",
    ] {
        assert!(!html.contains(way_in), "{way_in}");
    }
    let names_of_svg = html.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(
        html.matches("http").count(),
        names_of_svg + html.matches("https://arxiv.org/abs/2510.17205").count()
    );
    assert!(!html.contains("{{"));
}

#[test]
fn charts_show_thresholds_and_what_was_decided() {
    let chart = synthetic::small().cosine_chart();
    let levels: Vec<_> = chart
        .references
        .iter()
        .map(|level| format!("{:.4}", level.y))
        .collect();
    assert_eq!(levels, ["0.0050", "0.0010"]);
    let marks: Vec<_> = chart.marks.iter().map(|mark| mark.name.as_str()).collect();
    assert_eq!(marks, ["k = 2", "fusion 4", "exit 7"]);
    let n_points: Vec<_> = chart.series.iter().map(|series| series.points.len()).collect();
    assert_eq!(
        n_points,
        [10, 5],
        "ten layers; 3, 4 (fusion), 5, 6, 7 (exit) were read"
    );

    let unread = synthetic::one_layer().cosine_chart();
    assert_eq!(
        (unread.series.len(), unread.references.len(), unread.marks.len()),
        (1, 0, 0)
    );
}

/// A cosine of exactly 1 has a place on a logarithmic axis.
#[test]
fn a_token_that_does_nothing_is_drawn() {
    let mut inspection = synthetic::one_layer();
    inspection.layers[0].cos.fill(1.0);
    inspection.layers[0].norm.fill(0.0);
    assert_eq!(inspection.cosine_chart().series[0].points[0].y, 1e-7);
    assert!(!inspection.to_html().unwrap().contains("NaN"));
}

#[test]
fn sinks_of_the_chart_are_the_tokens_with_small_values() {
    let inspection = synthetic::small();
    let chart = inspection.value_chart();
    assert_eq!(chart.spreads.len(), 10);
    assert!(chart.spreads[0].outliers.is_empty());
    let sinks = outliers(&inspection.layers[5].value_l1);
    assert!(!sinks.is_empty());
    let median = chart.spreads[5].quartiles[1];
    assert!(
        sinks
            .iter()
            .all(|&token| inspection.layers[5].value_l1[token] < 0.2 * median)
    );
    assert_eq!(chart.spreads[5].outliers.len(), sinks.len());
}

#[test]
fn a_report_becomes_a_policy_and_what_it_kept() {
    use crate::policy::trace::{LayerTrace, PrefillTrace, ProbeTrace};
    use crate::policy::{PolicyConfig, PromptLayout, Skipped, VisionIndex};
    use crate::report::RunReport;
    let layout = PromptLayout {
        n_rows: 6,
        vision: std::iter::once(1..4).collect(),
    };
    let mut trace = PrefillTrace::dense(&layout, 3, Skipped::NoStages);
    trace.skipped = None;
    trace.fusion_layer = Some(1);
    trace.kept = Some(vec![VisionIndex(2)]);
    trace.layers[1] = LayerTrace {
        stage: Stage::Middle,
        probe: Some(ProbeTrace {
            tokens: (0..3).map(VisionIndex).collect(),
            cos: vec![0.9999, 0.97, 0.99],
            norm: vec![0.1, 0.5, 0.3],
            output_norm: 2.0,
        }),
        ..LayerTrace::dense(&layout)
    };
    trace.layers[2].vision = vec![VisionIndex(2)];
    trace.layers[2].n_rows = 4;
    let report = RunReport {
        policy: PolicyConfig::VisiPruner(Default::default()),
        text: String::from(" a cat "),
        ..RunReport::of_prefill(&layout, &[7; 6], &trace, &trace.n_cells(), true)
    };
    let policy = InspectedPolicy::of_report(&report);
    assert_eq!(
        (policy.label.as_str(), policy.answer.as_deref()),
        ("visipruner", Some("a cat"))
    );
    assert_eq!(
        policy
            .thresholds
            .as_ref()
            .map(|thresholds| thresholds.exit_layers),
        Some(2)
    );
    assert_eq!((policy.fusion_layer, policy.kept), (Some(1), Some(vec![2])));
    assert_eq!(policy.kept_after, Some(1));
    let read: Vec<_> = policy
        .layers
        .iter()
        .map(|layer| (layer.stage, layer.n_vision, layer.min_cos))
        .collect();
    let expected = [
        (Stage::Dense, 3, None),
        (Stage::Middle, 3, Some(0.97)),
        (Stage::Dense, 1, None),
    ];
    assert_eq!(read, expected);

    let kept = KeptBy::of_report("visipruner: its own", &report);
    assert_eq!(
        (kept.kept, kept.after_layer, kept.answer.as_deref()),
        (vec![2], Some(1), Some("a cat"))
    );
}

/// What breaks an inspection.
type Change = fn(&mut Inspection);

#[test]
fn what_does_not_fit_is_said() {
    let broken = |change: Change| {
        let mut inspection = synthetic::small();
        change(&mut inspection);
        inspection.to_html().unwrap_err().to_string()
    };
    let cases: [(Change, &str); 8] = [
        (|i| i.images.clear(), "an inspection needs at least one picture"),
        (
            |i| i.layers.truncate(9),
            "the dense run has 9 layers, but the model has 10",
        ),
        (
            |i| i.layers[4].cos.truncate(63),
            "layer 4: cos has 63 entries, but there are 64 vision tokens",
        ),
        (
            |i| i.layers[2].norm[5] = f64::NAN,
            "layer 2: norm has an entry that is not a finite number (NaN)",
        ),
        (
            |i| i.images[0].png = b"\xff\xd8\xff".to_vec(),
            "picture 0 (shapes.png): its data is not a PNG file",
        ),
        (
            |i| i.images[0].n_rows = 9,
            "picture 0 (shapes.png): 8 x 9 cells from vision token 0 on, of 64",
        ),
        (
            |i| i.others[0].kept.push(64),
            "a token kept by fastv keep=64 is 64, but must be below 64",
        ),
        (
            |i| i.policy.as_mut().unwrap().exit_layer = Some(10),
            "exit_layer is 10, but must be below 10",
        ),
    ];
    for (change, message) in cases {
        assert_eq!(broken(change), message);
    }
}
