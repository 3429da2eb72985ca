//! Accuracy against cost, as a chart.

use super::summary::{Cost, PolicySummary, Summary};
use super::sweep::pareto_front;
use crate::plot::{Axis, LineChart, Point, Reference, Series};

/// What a curve's horizontal axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CostAxis {
    /// Attention from and to vision tokens, what policies are compared at.
    VisionAttention,
    /// FLOPs of all that ran.
    Flops,
    /// Bytes of keys and values.
    KvBytes,
    /// Median milliseconds to the first token.
    FirstToken,
}

/// Where a policy's point belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnCurve {
    /// The line that it is on: points of one name are joined in the order of their cost.
    pub series: String,
    /// What sets it apart from the others on its line, such as the swept value. May be empty.
    pub note: String,
}

impl CostAxis {
    fn of(self, cost: &Cost) -> Option<f64> {
        let percent = |ratio: Option<f64>| ratio.map(|ratio| 100.0 * ratio);
        match self {
            Self::VisionAttention => percent(cost.vision_attention),
            Self::Flops => percent(cost.flops_model),
            Self::KvBytes => percent(cost.kv_bytes),
            Self::FirstToken => Some(cost.ttft_ms),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::VisionAttention => "attention from and to vision tokens, % of dense",
            Self::Flops => "FLOPs of the prefill, % of dense",
            Self::KvBytes => "KV cache of the prompt, % of dense",
            Self::FirstToken => "median time to first token, ms",
        }
    }
}

/// The accuracy of each policy against its cost, over all questions, with intervals and the Pareto front. `on_curve`
/// says for a policy's label on which line it is. Policies without that cost are left out.
pub fn accuracy_curve(
    summary: &Summary,
    cost: CostAxis,
    subtitle: &str,
    on_curve: impl Fn(&str) -> OnCurve,
) -> LineChart {
    let measured: Vec<(&PolicySummary, f64)> = summary
        .policies
        .iter()
        .filter_map(|policy| Some((policy, cost.of(&policy.all.cost)?)))
        .collect();
    let at: Vec<(f64, f64)> = measured
        .iter()
        .map(|(policy, cost)| (*cost, policy.all.accuracy.value))
        .collect();
    let mut series: Vec<Series> = Vec::new();
    for (&(policy, x), on_front) in measured.iter().zip(pareto_front(&at)) {
        let OnCurve { series: name, note } = on_curve(&policy.policy);
        let point = point(policy, x, cost, note, on_front);
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => series.push(Series {
                name,
                points: vec![point],
                markers: true,
            }),
        }
    }
    series
        .iter_mut()
        .for_each(|series| series.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    let is_share = cost != CostAxis::FirstToken;
    LineChart {
        title: "Accuracy against cost".to_owned(),
        subtitle: subtitle.to_owned(),
        x: Axis {
            title: cost.title().to_owned(),
            suffix: if is_share { " %" } else { "" }.to_owned(),
            from_zero: true,
            limits: is_share.then_some([0.0, 104.0]),
            ..Axis::default()
        },
        y: Axis {
            title: "accuracy".to_owned(),
            suffix: " %".to_owned(),
            limits: Some([0.0, 100.0]),
            ..Axis::default()
        },
        series,
        references: reference(summary).into_iter().collect(),
        front:
            "Pareto front: nothing else is as cheap and as accurate (filled points); bars are 95 % intervals"
                .to_owned(),
        ..LineChart::default()
    }
}

fn point(policy: &PolicySummary, x: f64, cost: CostAxis, note: String, on_front: bool) -> Point {
    let accuracy = policy.all.accuracy;
    let unit = if cost == CostAxis::FirstToken {
        "ms"
    } else {
        "% of dense"
    };
    Point {
        x,
        y: 100.0 * accuracy.value,
        interval: Some([100.0 * accuracy.low, 100.0 * accuracy.high]),
        note,
        tooltip: format!(
            "{}: {:.1} % right ({:.1} to {:.1}) of {}, at {x:.1} {unit}",
            policy.policy,
            100.0 * accuracy.value,
            100.0 * accuracy.low,
            100.0 * accuracy.high,
            policy.all.n
        ),
        on_front,
    }
}

/// The baseline's accuracy as a level; its point carries the name.
fn reference(summary: &Summary) -> Option<Reference> {
    let baseline = summary.baseline.as_deref()?;
    let policy = summary.policies.iter().find(|policy| policy.policy == baseline)?;
    Some(Reference {
        y: 100.0 * policy.all.accuracy.value,
        name: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::record::Spent;
    use crate::eval::summary::tests::colours;

    /// Two budgets of one policy: the cheaper one comes second in the store and first on the line.
    #[test]
    fn policies_of_one_series_are_joined_by_cost() {
        let (questions, mut records) = colours();
        let cheaper: Vec<_> = records[5..]
            .iter()
            .cloned()
            .map(|mut record| {
                record.policy = "pruned keep=1".to_owned();
                record.text = "red".to_owned();
                record.vision_attention = Spent {
                    dense: 400,
                    actual: 40,
                };
                record
            })
            .collect();
        records.extend(cheaper);
        let labels = ["dense", "pruned", "pruned keep=1"];
        let summary = Summary::new(&questions, &records, &labels, "dense");
        let chart = accuracy_curve(&summary, CostAxis::VisionAttention, "five questions", |label| {
            let (series, note) = label.split_once(' ').unwrap_or((label, ""));
            OnCurve {
                series: series.to_owned(),
                note: note.to_owned(),
            }
        });
        let names: Vec<_> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["dense", "pruned"]);
        let line: Vec<_> = chart.series[1]
            .points
            .iter()
            .map(|p| (p.x, p.y, p.on_front, p.note.as_str()))
            .collect();
        assert_eq!(line, [(10.0, 80.0, true, "keep=1"), (25.0, 60.0, false, "")]);
        let levels: Vec<_> = chart.references.iter().map(|reference| reference.y).collect();
        assert_eq!(levels, [60.0]);
        assert!(
            chart.series[1].points[0]
                .tooltip
                .starts_with("pruned keep=1: 80.0 % right")
        );
        assert!(chart.to_svg().contains("keep=1"));
    }
}
