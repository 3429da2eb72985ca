//! What the answers of a store come to: per policy, over all questions and per category.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::question::Question;
use super::record::{Record, Spent};
use super::scoring::mme::{self, PairScore, Totals};
use super::scoring::yes_no::Confusion;
use super::scoring::{Grade, Scoring, normalise};
use super::stats::{self, Estimate};

/// The figures of every policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The label that the others are compared with, if it has answers.
    pub baseline: Option<String>,
    /// In the order asked for; policies without an answer are left out.
    pub policies: Vec<PolicySummary>,
}

/// The figures of one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicySummary {
    /// Its label.
    pub policy: String,
    /// Over all questions.
    pub all: Group,
    /// Per category, in the order in which they first appear; empty if the questions have none.
    pub categories: Vec<Group>,
    /// MME's sums, if the questions are MME's.
    pub mme: Option<Totals>,
}

/// The figures of one policy over some questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The category; `None` for all questions.
    pub category: Option<String>,
    /// Questions answered.
    pub n: usize,
    /// The mean score. Wilson's interval where every score is 0 or 1, else bootstrap.
    pub accuracy: Estimate,
    /// Precision, recall and F1 of saying yes, where all questions are yes-or-no.
    pub yes_no: Option<YesNo>,
    /// Accuracy+ and score, where all questions are MME's.
    pub pairs: Option<PairScore>,
    /// How often the answer says the same as the baseline's: identical once both are normalised, right or wrong. Over
    /// the questions that both have answered. `None` for the baseline itself.
    pub agreement: Option<Estimate>,
    /// The difference to the baseline over the questions that both have answered.
    pub difference: Option<Difference>,
    /// What it cost.
    pub cost: Cost,
}

/// Figures of yes-or-no questions; "yes" is what is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct YesNo {
    /// The counts.
    pub counts: Confusion,
    /// `None` where it never says yes.
    pub precision: Option<f64>,
    /// `None` where no answer is yes.
    pub recall: Option<f64>,
    /// With a bootstrap interval.
    pub f1: Option<Estimate>,
    /// How often it says yes.
    pub yes_ratio: Option<f64>,
}

/// A policy against the baseline, question by question.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Questions that both have answered.
    pub n: usize,
    /// Mean score minus the baseline's. Agresti and Min's interval where every score is 0 or 1, else paired bootstrap.
    pub score: Estimate,
    /// Questions with a higher score than the baseline's.
    pub gained: usize,
    /// Questions with a lower one.
    pub lost: usize,
    /// McNemar's exact test, where every score is 0 or 1.
    pub p_value: Option<f64>,
}

/// Costs: sums over the questions, as fractions of the same sums without pruning (`None` where those are 0), and
/// medians of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The paper's count of FLOPs.
    pub flops_paper: Option<f64>,
    /// FLOPs of all that ran.
    pub flops_model: Option<f64>,
    /// Attention from and to vision tokens.
    pub vision_attention: Option<f64>,
    /// Vision rows over all layers.
    pub vision_rows: Option<f64>,
    /// Keys and values of the prompt.
    pub kv_bytes: Option<f64>,
    /// Vision tokens that went on after the fusion layer, on average.
    pub n_kept: f64,
    /// Questions for which some row was dropped.
    pub n_pruned: usize,
    /// Milliseconds to the first token.
    pub ttft_ms: f64,
    /// Milliseconds of the vision encoder.
    pub encode_ms: f64,
    /// Milliseconds of the prefill.
    pub prefill_ms: f64,
    /// Milliseconds of the generation.
    pub decode_ms: f64,
}

/// An answer with what it is worth.
struct Graded<'a> {
    question: &'a Question,
    record: &'a Record,
    grade: Grade,
}

/// One policy's answers by question id.
type Answers<'a> = HashMap<&'a str, Graded<'a>>;

impl Summary {
    /// The figures of the policies `labels` over `questions`; answers to other questions are left out. `baseline` is
    /// the label that the others are compared with.
    pub fn new(questions: &[Question], records: &[Record], labels: &[&str], baseline: &str) -> Self {
        let by_id: HashMap<&str, &Question> = questions.iter().map(|q| (q.id.as_str(), q)).collect();
        let mut answers: HashMap<&str, Answers> = HashMap::new();
        for record in records {
            if let Some(&question) = by_id.get(record.id.as_str()) {
                let grade = question.grade(&record.text);
                let graded = Graded {
                    question,
                    record,
                    grade,
                };
                answers
                    .entry(&record.policy)
                    .or_default()
                    .insert(&record.id, graded);
            }
        }
        let baseline = answers.contains_key(baseline).then_some(baseline);
        let policies = labels.iter().filter_map(|&label| {
            let others = baseline
                .filter(|&baseline| baseline != label)
                .map(|baseline| &answers[baseline]);
            Some(policy_summary(label, questions, answers.get(label)?, others))
        });
        Self {
            policies: policies.collect(),
            baseline: baseline.map(str::to_owned),
        }
    }
}

fn policy_summary(
    label: &str,
    questions: &[Question],
    answers: &Answers,
    baseline: Option<&Answers>,
) -> PolicySummary {
    let answered: Vec<&Graded> = questions
        .iter()
        .filter_map(|question| answers.get(question.id.as_str()))
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for name in answered
        .iter()
        .filter_map(|graded| graded.question.category.as_deref())
    {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of_category = |name: &&str| {
        let members: Vec<&Graded> = answered
            .iter()
            .copied()
            .filter(|g| g.question.category.as_deref() == Some(name))
            .collect();
        group(Some(name), &members, baseline)
    };
    let categories: Vec<Group> = names.iter().map(of_category).collect();
    let scores = categories
        .iter()
        .filter_map(|group| Some((group.category.as_deref()?, group.pairs?.score)));
    let totals = mme::totals(scores);
    PolicySummary {
        policy: label.to_owned(),
        all: group(None, &answered, baseline),
        categories,
        mme: (totals.n_perception + totals.n_cognition > 0).then_some(totals),
    }
}

/// `members` has at least one entry.
fn group(category: Option<&str>, members: &[&Graded], baseline: Option<&Answers>) -> Group {
    let scores: Vec<f64> = members.iter().map(|graded| graded.grade.score).collect();
    let accuracy = if is_binary(members) {
        stats::proportion(scores.iter().filter(|&&score| score == 1.0).count(), scores.len())
    } else {
        stats::mean(&scores)
    };
    let pairs: Vec<(&Graded, &Graded)> = baseline
        .into_iter()
        .flat_map(|baseline| {
            members
                .iter()
                .filter_map(|&own| Some((own, baseline.get(own.question.id.as_str())?)))
        })
        .collect();
    let accuracy = accuracy.unwrap_or(Estimate {
        value: 0.0,
        low: 0.0,
        high: 1.0,
    });
    Group {
        category: category.map(str::to_owned),
        n: members.len(),
        accuracy,
        yes_no: yes_no(members),
        pairs: pair_score(members, accuracy.value),
        agreement: agreement(&pairs),
        difference: difference(&pairs, is_binary(members)),
        cost: cost(members),
    }
}

fn is_binary(members: &[&Graded]) -> bool {
    members.iter().all(|graded| graded.question.scoring.is_binary())
}

fn yes_no(members: &[&Graded]) -> Option<YesNo> {
    if !members.iter().all(|graded| graded.question.scoring.is_yes_no()) {
        return None;
    }
    let said: Vec<(Option<&str>, bool)> = members
        .iter()
        .map(|graded| {
            let is_yes = |answer: &String| answer.trim().eq_ignore_ascii_case("yes");
            (
                graded.grade.read.as_deref(),
                graded.question.answers.iter().any(is_yes),
            )
        })
        .collect();
    let count = |chosen: &mut dyn Iterator<Item = usize>| {
        let mut counts = Confusion::default();
        chosen.for_each(|i| counts.add(said[i].0, said[i].1));
        counts
    };
    let counts = count(&mut (0..said.len()));
    Some(YesNo {
        counts,
        precision: counts.precision(),
        recall: counts.recall(),
        f1: stats::bootstrap(said.len(), |chosen| count(&mut chosen.iter().copied()).f1()),
        yes_ratio: counts.yes_ratio(),
    })
}

fn pair_score(members: &[&Graded], accuracy: f64) -> Option<PairScore> {
    if !members
        .iter()
        .all(|graded| graded.question.scoring == Scoring::Mme)
    {
        return None;
    }
    let mut pictures: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for graded in members {
        let (n_asked, n_right) = pictures.entry(graded.question.group.as_deref()?).or_default();
        *n_asked += 1;
        *n_right += usize::from(graded.grade.score == 1.0);
    }
    mme::pair_score(accuracy, pictures.into_values())
}

fn agreement(pairs: &[(&Graded, &Graded)]) -> Option<Estimate> {
    let is_same =
        |(own, other): &&(&Graded, &Graded)| normalise(&own.record.text) == normalise(&other.record.text);
    stats::proportion(pairs.iter().filter(is_same).count(), pairs.len())
}

fn difference(pairs: &[(&Graded, &Graded)], is_binary: bool) -> Option<Difference> {
    let differences: Vec<f64> = pairs
        .iter()
        .map(|(own, other)| own.grade.score - other.grade.score)
        .collect();
    let gained = differences.iter().filter(|&&difference| difference > 0.0).count();
    let lost = differences.iter().filter(|&&difference| difference < 0.0).count();
    let score = if is_binary {
        stats::paired_proportions(gained, lost, pairs.len())
    } else {
        stats::mean(&differences)
    };
    Some(Difference {
        n: pairs.len(),
        score: score?,
        gained,
        lost,
        p_value: is_binary.then(|| stats::mcnemar(gained, lost)),
    })
}

fn cost(members: &[&Graded]) -> Cost {
    let ratio = |spent: fn(&Record) -> Spent| {
        let sum = |part: fn(Spent) -> u64| {
            members
                .iter()
                .map(|graded| part(spent(graded.record)) as f64)
                .sum::<f64>()
        };
        let (dense, actual) = (sum(|spent| spent.dense), sum(|spent| spent.actual));
        (dense > 0.0).then(|| actual / dense)
    };
    let median = |time: fn(&Record) -> f64| {
        stats::median(members.iter().map(|graded| time(graded.record)).collect()).unwrap_or(0.0)
    };
    let n_kept: usize = members.iter().map(|graded| graded.record.n_kept).sum();
    Cost {
        flops_paper: ratio(|record| record.flops_paper),
        flops_model: ratio(|record| record.flops_model),
        vision_attention: ratio(|record| record.vision_attention),
        vision_rows: ratio(|record| record.vision_rows),
        kv_bytes: ratio(|record| record.kv_bytes),
        n_kept: n_kept as f64 / members.len().max(1) as f64,
        n_pruned: members
            .iter()
            .filter(|graded| graded.record.skipped.is_none())
            .count(),
        ttft_ms: median(|record| record.ttft_ms),
        encode_ms: median(|record| record.encode_ms),
        prefill_ms: median(|record| record.prefill_ms),
        decode_ms: median(|record| record.decode_ms),
    }
}

#[cfg(test)]
pub(super) mod tests;
