//! A summary as text: aligned for a terminal, as Markdown, as CSV.
//!
//! The tables are of one kind (a head, text left, numbers right), which aligning columns is all there is to; a table
//! crate would bring borders and wrapping that nothing here uses.

mod rows;

use super::scoring::mme::Totals;
use super::stats::Estimate;
use super::summary::{Group, PolicySummary, Summary};

pub use rows::to_csv;

/// Cells with a head. The first column is text, the others are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// One for each column.
    pub head: Vec<String>,
    /// As long as the head, each.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Lines with aligned columns, the title above them.
    pub fn to_terminal(&self) -> String {
        let n_chars = |text: &String| text.chars().count();
        let all = || [&self.head].into_iter().chain(&self.rows);
        let width = |i: usize| all().filter_map(|row| row.get(i)).map(n_chars).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cell = |(i, (text, &width)): (usize, (&String, &usize))| match i {
                0 => format!("{text:<width$}"),
                _ => format!("{text:>width$}"),
            };
            let cells: Vec<String> = row.iter().zip(&widths).enumerate().map(cell).collect();
            cells.join("  ").trim_end().to_owned()
        };
        let lines: Vec<String> = [self.title.clone()].into_iter().chain(all().map(line)).collect();
        lines.join("\n") + "\n"
    }

    /// A table in GitHub's Markdown, the title above it.
    pub fn to_markdown(&self) -> String {
        let line = |row: &[String]| {
            let cells: Vec<String> = row
                .iter()
                .map(|cell| cell.replace('|', "\\|").replace('\n', " "))
                .collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<&str> = (0..self.head.len())
            .map(|i| if i == 0 { "---" } else { "---:" })
            .collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!(
            "{}\n\n{}| {} |\n{rows}",
            self.title,
            line(&self.head),
            rule.join(" | ")
        )
    }
}

/// The tables that a summary has something for: all policies; accuracy by category; yes-or-no figures; MME's scores.
pub fn tables(summary: &Summary) -> Vec<Table> {
    let all = [
        Some(overview(summary)),
        by_category(summary),
        yes_no(summary),
        mme(summary),
    ];
    all.into_iter().flatten().collect()
}

/// A policy per row: accuracy, difference and agreement, costs.
fn overview(summary: &Summary) -> Table {
    let baseline = summary.baseline.as_deref();
    let mut head = vec!["policy", "n", "accuracy", "95 % interval"];
    if baseline.is_some() {
        head.extend(["difference", "95 % interval", "agreement"]);
    }
    head.extend([
        "FLOPs",
        "vision attention",
        "vision rows",
        "KV bytes",
        "first token",
    ]);
    let row = |policy: &PolicySummary| {
        let (all, cost) = (&policy.all, &policy.all.cost);
        let mut row = vec![
            policy.policy.clone(),
            all.n.to_string(),
            percent(all.accuracy.value),
            interval(all.accuracy),
        ];
        if baseline.is_some() {
            row.push(
                all.difference
                    .map_or_else(String::new, |difference| signed(difference.score.value)),
            );
            row.push(
                all.difference
                    .map_or_else(String::new, |difference| signed_interval(difference.score)),
            );
            row.push(
                all.agreement
                    .map_or_else(String::new, |agreement| percent(agreement.value)),
            );
        }
        let ratios = [
            cost.flops_model,
            cost.vision_attention,
            cost.vision_rows,
            cost.kv_bytes,
        ];
        row.extend(ratios.map(|ratio| ratio.map_or("-".to_owned(), percent)));
        row.push(format!("{:.1} ms", cost.ttft_ms));
        row
    };
    let note = baseline
        .map(|baseline| format!(", against {baseline}"))
        .unwrap_or_default();
    Table {
        title: format!("Policies{note}; costs as shares of the same work without pruning, time as median"),
        head: head.into_iter().map(str::to_owned).collect(),
        rows: summary.policies.iter().map(row).collect(),
    }
}

/// A policy per row, a category per column.
fn by_category(summary: &Summary) -> Option<Table> {
    let names = categories(summary);
    let row = |policy: &PolicySummary| {
        let cells = names
            .iter()
            .map(|name| of_category(policy, name).map_or(String::new(), |g| percent(g.accuracy.value)));
        [policy.policy.clone()].into_iter().chain(cells).collect()
    };
    (names.len() > 1).then(|| Table {
        title: "Accuracy by category".to_owned(),
        head: ["policy"]
            .iter()
            .chain(&names)
            .map(|&name| name.to_owned())
            .collect(),
        rows: summary.policies.iter().map(row).collect(),
    })
}

fn yes_no(summary: &Summary) -> Option<Table> {
    let row = |policy: &PolicySummary| {
        let figures = policy.all.yes_no?;
        let f1 = figures.f1;
        let optional = |value: Option<f64>| value.map_or("-".to_owned(), percent);
        Some(vec![
            policy.policy.clone(),
            percent(policy.all.accuracy.value),
            optional(figures.precision),
            optional(figures.recall),
            optional(f1.map(|f1| f1.value)),
            f1.map_or("-".to_owned(), interval),
            optional(figures.yes_ratio),
        ])
    };
    let rows: Vec<_> = summary.policies.iter().filter_map(row).collect();
    let head = [
        "policy",
        "accuracy",
        "precision",
        "recall",
        "F1",
        "95 % interval",
        "says yes",
    ];
    (!rows.is_empty()).then(|| Table {
        title: "Yes or no".to_owned(),
        head: head.map(str::to_owned).to_vec(),
        rows,
    })
}

/// A policy per row, a subtask per column, and the sums.
fn mme(summary: &Summary) -> Option<Table> {
    let names = categories(summary);
    let row = |policy: &PolicySummary| {
        let totals: Totals = policy.mme?;
        let score = |name: &&str| {
            of_category(policy, name)?
                .pairs
                .map(|pairs| format!("{:.1}", pairs.score))
        };
        let scores = names.iter().map(|name| score(name).unwrap_or_default());
        let sums = [totals.perception, totals.cognition].map(|sum| format!("{sum:.1}"));
        Some(
            [policy.policy.clone()]
                .into_iter()
                .chain(scores)
                .chain(sums)
                .collect::<Vec<_>>(),
        )
    };
    let rows: Vec<_> = summary.policies.iter().filter_map(row).collect();
    let head = ["policy"]
        .iter()
        .chain(&names)
        .chain(&["perception", "cognition"]);
    (!rows.is_empty()).then(|| Table {
        title: "MME: accuracy + accuracy+, in percent, and their sums".to_owned(),
        head: head.map(|&name| name.to_owned()).collect(),
        rows,
    })
}

/// All categories, in the order in which they first appear.
fn categories(summary: &Summary) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for group in summary.policies.iter().flat_map(|policy| &policy.categories) {
        if let Some(name) = group.category.as_deref().filter(|name| !names.contains(name)) {
            names.push(name);
        }
    }
    names
}

fn of_category<'a>(policy: &'a PolicySummary, name: &str) -> Option<&'a Group> {
    policy
        .categories
        .iter()
        .find(|group| group.category.as_deref() == Some(name))
}

/// `98.5 %`
fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// `97.7 to 99.0`
fn interval(estimate: Estimate) -> String {
    format!("{:.1} to {:.1}", 100.0 * estimate.low, 100.0 * estimate.high)
}

/// `-0.2`, in percentage points.
fn signed(fraction: f64) -> String {
    format!("{:+.1}", 100.0 * fraction)
}

fn signed_interval(estimate: Estimate) -> String {
    format!("{} to {}", signed(estimate.low), signed(estimate.high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::question::tests::question;
    use crate::eval::record::tests::record;
    use crate::eval::scoring::Scoring;
    use crate::eval::summary::tests::colours;

    fn summary() -> Summary {
        let (questions, records) = colours();
        Summary::new(&questions, &records, &["dense", "pruned"], "dense")
    }

    #[test]
    fn a_table_for_the_terminal() {
        let texts: Vec<String> = tables(&summary()).iter().map(Table::to_terminal).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn markdown_keeps_its_columns() {
        let table = Table {
            title: "T".to_owned(),
            head: vec!["a|b".to_owned(), "n".to_owned()],
            rows: vec![vec!["x\ny".to_owned(), "1".to_owned()]],
        };
        assert_eq!(
            table.to_markdown(),
            "T\n\n| a\\|b | n |\n| --- | ---: |\n| x y | 1 |\n"
        );
    }

    #[test]
    fn benchmarks_with_figures_of_their_own_have_tables_of_their_own() {
        let mut asked = question("1", Scoring::Mme, &["Yes"]);
        asked.category = Some("color".to_owned());
        asked.group = Some("a".to_owned());
        let second = crate::eval::question::Question {
            id: "2".to_owned(),
            ..asked.clone()
        };
        let records = [record("1", "p, \"q\"", "yes"), record("2", "p, \"q\"", "no")];
        let summary = Summary::new(&[asked, second], &records, &["p, \"q\""], "dense");
        let titles: Vec<_> = tables(&summary)
            .into_iter()
            .map(|table| (table.title, table.rows[0].clone()))
            .collect();
        assert_eq!(titles.len(), 3);
        assert_eq!(titles[2].1, ["p, \"q\"", "50.0", "50.0", "0.0"]);
        assert!(titles[1].1[4].contains('%'), "{titles:?}");
        assert!(to_csv(&summary).contains("\"p, \"\"q\"\"\""));
    }
}
