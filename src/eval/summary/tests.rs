//! Summaries of a handful of answers, by hand.

use super::*;
use crate::eval::question::tests::question;
use crate::eval::record::tests::record;

fn with_category(mut question: Question, category: &str) -> Question {
    question.category = Some(category.to_owned());
    question
}

fn dense(id: &str, text: &str) -> Record {
    let all = Spent {
        dense: 400,
        actual: 400,
    };
    Record {
        vision_attention: all,
        kv_bytes: all,
        n_kept: 64,
        ttft_ms: 40.0,
        skipped: Some("off".to_owned()),
        ..record(id, "dense", text)
    }
}

/// Four questions about colours and one about a count: dense is right on q1, q2, q3, pruned on q1, q2, q4.
pub fn colours() -> (Vec<Question>, Vec<Record>) {
    let colour = |id: &str| with_category(question(id, Scoring::Exact, &["red"]), "colour");
    let questions = vec![
        colour("q1"),
        colour("q2"),
        with_category(question("q5", Scoring::Exact, &["2"]), "count"),
        colour("q3"),
        colour("q4"),
    ];
    let answers = |label: &str, texts: [&str; 5]| {
        let of = |(i, text): (usize, &str)| match label {
            "dense" => dense(&format!("q{}", i + 1), text),
            label => record(&format!("q{}", i + 1), label, text),
        };
        texts.into_iter().enumerate().map(of).collect::<Vec<_>>()
    };
    let mut records = answers("dense", ["red", "red", "red", "blue", "3"]);
    records.extend(answers("pruned", ["red", " red\n", "green", "red", "Three"]));
    (questions, records)
}

#[test]
fn accuracy_per_policy_and_category() {
    let (questions, records) = colours();
    let summary = Summary::new(&questions, &records, &["dense", "pruned", "absent"], "dense");
    assert_eq!(summary.baseline.as_deref(), Some("dense"));
    let labels: Vec<_> = summary
        .policies
        .iter()
        .map(|policy| policy.policy.as_str())
        .collect();
    assert_eq!(labels, ["dense", "pruned"]);
    let pruned = &summary.policies[1];
    assert_eq!((pruned.all.n, pruned.all.accuracy.value), (5, 0.6));
    let categories: Vec<_> = pruned
        .categories
        .iter()
        .map(|g| (g.category.as_deref(), g.n, g.accuracy.value))
        .collect();
    assert_eq!(categories, [(Some("colour"), 4, 0.75), (Some("count"), 1, 0.0)]);
    assert_eq!(
        (pruned.all.yes_no, pruned.all.pairs, pruned.mme),
        (None, None, None)
    );
}

/// q3 was lost, q4 gained. The texts agree on q1, q2 and q5 (3 and Three).
#[test]
fn difference_and_agreement_are_paired() {
    let (questions, mut records) = colours();
    let summary = Summary::new(&questions, &records, &["dense", "pruned"], "dense");
    assert_eq!(
        (
            summary.policies[0].all.agreement,
            summary.policies[0].all.difference
        ),
        (None, None)
    );
    let pruned = &summary.policies[1].all;
    assert_eq!(pruned.agreement.unwrap().value, 0.6);
    let difference = pruned.difference.unwrap();
    assert_eq!((difference.n, difference.gained, difference.lost), (5, 1, 1));
    assert_eq!((difference.score.value, difference.p_value), (0.0, Some(1.0)));

    records.retain(|record| !(record.policy == "dense" && record.id == "q4"));
    let summary = Summary::new(&questions, &records, &["pruned"], "dense");
    let difference = summary.policies[0].all.difference.unwrap();
    assert_eq!(
        (summary.policies[0].all.n, difference.n, difference.score.value),
        (5, 4, -0.25)
    );
}

#[test]
fn costs_are_ratios_of_sums_and_medians() {
    let (questions, mut records) = colours();
    records[5].vision_attention = Spent {
        dense: 1600,
        actual: 1600,
    };
    records[5].ttft_ms = 1000.0;
    records[6].ttft_ms = 12.0;
    let summary = Summary::new(&questions, &records, &["dense", "pruned"], "dense");
    let (dense, pruned) = (&summary.policies[0].all.cost, &summary.policies[1].all.cost);
    assert_eq!(dense.vision_attention, Some(1.0));
    assert_eq!(pruned.vision_attention, Some(2000.0 / 3200.0));
    assert_eq!((pruned.kv_bytes, pruned.n_kept), (Some(0.25), 16.0));
    assert_eq!((dense.n_pruned, pruned.n_pruned), (0, 5));
    assert_eq!((dense.ttft_ms, pruned.ttft_ms), (40.0, 10.0));
}

#[test]
fn answers_to_other_questions_are_left_out() {
    let (mut questions, records) = colours();
    questions.truncate(2);
    let summary = Summary::new(&questions, &records, &["pruned"], "nothing");
    assert_eq!(
        (summary.policies[0].all.n, summary.policies[0].all.accuracy.value),
        (2, 1.0)
    );
    assert_eq!(
        (summary.baseline.clone(), summary.policies[0].all.difference),
        (None, None)
    );
    assert!(
        Summary::new(&[], &records, &["pruned"], "dense")
            .policies
            .is_empty()
    );
}

/// Yes and right twice, yes and wrong once, no and wrong once: precision 2/3, recall 2/3, F1 2/3.
#[test]
fn yes_or_no_questions_have_an_f1() {
    let expected = ["yes", "no", "yes", "yes"];
    let questions: Vec<_> = expected
        .iter()
        .enumerate()
        .map(|(i, a)| question(&i.to_string(), Scoring::YesNo, &[a]))
        .collect();
    let said = ["Yes", "Yes.", "No, it is not", "yes"];
    let records: Vec<_> = said
        .iter()
        .enumerate()
        .map(|(i, text)| record(&i.to_string(), "p", text))
        .collect();
    let all = Summary::new(&questions, &records, &["p"], "dense")
        .policies
        .remove(0)
        .all;
    let yes_no = all.yes_no.unwrap();
    assert_eq!(
        (yes_no.precision, yes_no.recall),
        (Some(2.0 / 3.0), Some(2.0 / 3.0))
    );
    let f1 = yes_no.f1.unwrap();
    assert!((f1.value - 2.0 / 3.0).abs() < 1e-12 && f1.low < f1.value && f1.value < f1.high);
    assert_eq!((all.accuracy.value, yes_no.yes_ratio), (0.5, Some(0.75)));
}

/// Two pictures about colours, one with both questions right, and one about code with none.
#[test]
fn mme_has_pairs_and_totals() {
    let asked = |id: &str, category: &str, picture: &str, answer: &str| {
        let mut asked = with_category(question(id, Scoring::Mme, &[answer]), category);
        asked.group = Some(picture.to_owned());
        asked
    };
    let questions = [
        asked("1", "color", "a", "Yes"),
        asked("2", "color", "a", "No"),
        asked("3", "color", "b", "Yes"),
        asked("4", "color", "b", "No"),
        asked("5", "code_reasoning", "c", "Yes"),
        asked("6", "code_reasoning", "c", "No"),
    ];
    let said = ["yes", "no", "yes", "yes", "what?", "yes"];
    let records: Vec<_> = said
        .iter()
        .enumerate()
        .map(|(i, text)| record(&(i + 1).to_string(), "p", text))
        .collect();
    let policy = Summary::new(&questions, &records, &["p"], "dense")
        .policies
        .remove(0);
    let color = policy.categories[0].pairs.unwrap();
    assert_eq!((color.n_pairs, color.accuracy_plus, color.score), (2, 0.5, 125.0));
    let totals = policy.mme.unwrap();
    assert_eq!((totals.perception, totals.n_perception), (125.0, 1));
    assert_eq!((totals.cognition, totals.n_cognition), (0.0, 1));
}

/// Nine of ten people's red scores 1, one of ten 0.3: mean 0.65, with an interval between them.
#[test]
fn soft_scores_have_a_bootstrap_interval() {
    let people = [
        "red", "red", "red", "red", "red", "red", "red", "red", "red", "blue",
    ];
    let questions = [
        question("1", Scoring::Vqa, &people),
        question("2", Scoring::Vqa, &people),
    ];
    let records = [record("1", "p", "Red."), record("2", "p", "blue")];
    let all = Summary::new(&questions, &records, &["p"], "dense")
        .policies
        .remove(0)
        .all;
    assert!((all.accuracy.value - 0.65).abs() < 1e-12);
    assert!((all.accuracy.low - 0.3).abs() < 1e-12 && (all.accuracy.high - 1.0).abs() < 1e-12);
}

#[test]
fn json_reads_back() {
    let (questions, records) = colours();
    let summary = Summary::new(&questions, &records, &["dense", "pruned"], "dense");
    let json = serde_json::to_string(&summary).unwrap();
    assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
}
