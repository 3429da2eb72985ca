//! All figures of a summary as rows of CSV.

use std::borrow::Cow;

use crate::eval::summary::{Group, Summary};

/// A row per policy and category, with all figures as plain numbers; fractions are not in percent. The category of all
/// questions is empty. What there is no figure for is empty.
pub fn to_csv(summary: &Summary) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let head: Vec<&str> = CSV.iter().map(|(name, _)| *name).collect();
    write(
        &mut writer,
        [Cow::Borrowed("policy")]
            .into_iter()
            .chain(head.into_iter().map(Cow::Borrowed)),
    );
    for policy in &summary.policies {
        for group in [&policy.all].into_iter().chain(&policy.categories) {
            let cells = CSV
                .iter()
                .map(|(_, cell)| Cow::Owned(cell(group).unwrap_or_default()));
            write(
                &mut writer,
                [Cow::Borrowed(policy.policy.as_str())].into_iter().chain(cells),
            );
        }
    }
    let bytes = writer
        .into_inner()
        .unwrap_or_else(|error| error.into_inner().into_inner().unwrap_or_default());
    String::from_utf8(bytes).unwrap_or_default()
}

fn write<'a>(writer: &mut csv::Writer<Vec<u8>>, cells: impl Iterator<Item = Cow<'a, str>>) {
    let cells: Vec<Cow<str>> = cells.collect();
    let cells = cells.iter().map(|cell| cell.as_bytes());
    writer
        .write_record(cells)
        .expect("memory takes every row, and all rows have as many cells as the head");
}

type Cell = fn(&Group) -> Option<String>;

/// The columns of the CSV after the policy.
const CSV: [(&str, Cell); 32] = [
    ("category", |g| g.category.clone()),
    ("n", |g| text(g.n)),
    ("accuracy", |g| text(g.accuracy.value)),
    ("accuracy_low", |g| text(g.accuracy.low)),
    ("accuracy_high", |g| text(g.accuracy.high)),
    ("agreement", |g| text(g.agreement?.value)),
    ("agreement_low", |g| text(g.agreement?.low)),
    ("agreement_high", |g| text(g.agreement?.high)),
    ("n_compared", |g| text(g.difference?.n)),
    ("difference", |g| text(g.difference?.score.value)),
    ("difference_low", |g| text(g.difference?.score.low)),
    ("difference_high", |g| text(g.difference?.score.high)),
    ("gained", |g| text(g.difference?.gained)),
    ("lost", |g| text(g.difference?.lost)),
    ("p_value", |g| text(g.difference?.p_value?)),
    ("precision", |g| text(g.yes_no?.precision?)),
    ("recall", |g| text(g.yes_no?.recall?)),
    ("f1", |g| text(g.yes_no?.f1?.value)),
    ("yes_ratio", |g| text(g.yes_no?.yes_ratio?)),
    ("accuracy_plus", |g| text(g.pairs?.accuracy_plus)),
    ("mme_score", |g| text(g.pairs?.score)),
    ("flops_paper", |g| text(g.cost.flops_paper?)),
    ("flops_model", |g| text(g.cost.flops_model?)),
    ("vision_attention", |g| text(g.cost.vision_attention?)),
    ("vision_rows", |g| text(g.cost.vision_rows?)),
    ("kv_bytes", |g| text(g.cost.kv_bytes?)),
    ("n_kept", |g| text(g.cost.n_kept)),
    ("n_pruned", |g| text(g.cost.n_pruned)),
    ("ttft_ms", |g| text(g.cost.ttft_ms)),
    ("encode_ms", |g| text(g.cost.encode_ms)),
    ("prefill_ms", |g| text(g.cost.prefill_ms)),
    ("decode_ms", |g| text(g.cost.decode_ms)),
];

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::summary::tests::colours;

    #[test]
    fn csv_has_a_row_for_each_policy_and_category() {
        let (questions, records) = colours();
        let csv = to_csv(&Summary::new(&questions, &records, &["dense", "pruned"], "dense"));
        let rows: Vec<Vec<String>> = csv::Reader::from_reader(csv.as_bytes())
            .records()
            .map(|row| row.unwrap().iter().map(str::to_owned).collect())
            .collect();
        let start: Vec<_> = rows.iter().map(|row| row[..4].join(";")).collect();
        assert_eq!(
            start,
            [
                "dense;;5;0.6",
                "dense;colour;4;0.75",
                "dense;count;1;0",
                "pruned;;5;0.6",
                "pruned;colour;4;0.75",
                "pruned;count;1;0"
            ]
        );
        let head = csv
            .lines()
            .next()
            .unwrap()
            .split(',')
            .position(|name| name == "vision_attention")
            .unwrap();
        assert_eq!((rows[0][head].as_str(), rows[3][head].as_str()), ("1", "0.25"));
    }
}
