//! Which rows run together: a range of layers as calls in each of which all queries treat vision alike.
//!
//! Weights zeroed or merged after softmax are obtained by changing the values that a call sees, so text and vision
//! queries that treat vision differently run in different calls, in prompt order (`P+V1 | T1 | V2 | T2`). Masks act on
//! single queries, so masked and ordinary queries share a call. Text before the first image sees no vision and joins
//! whatever follows it.

use std::ops::Range;

use super::PrefillParams;
use crate::policy::{
    PromptLayout, Row, Statistic, TextToVision, VisionAttention, VisionIndex, VisionToVision,
};

/// One call of the engine: some rows through some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeCall {
    /// The layers.
    pub layers: Range<usize>,
    /// The rows, ascending. The calls of a range come in prompt order and together list every row once.
    pub rows: Vec<Row>,
    /// What the rows do with vision keys.
    pub attention: CallAttention,
    /// What is read from the attention of its rows. Only in a call that has any of the rows concerned.
    pub probe: Option<CallProbe>,
    /// Whether each row sees only rows up to itself; else the rows of the call see each other both ways.
    pub causal: bool,
}

/// What a call is probed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallProbe {
    /// The layer, the last one of the call.
    pub il: usize,
    /// What is read.
    pub statistic: Statistic,
    /// The rows of the call whose attention is read, ascending: the last prompt row, or for
    /// [`Statistic::TextAttention`] the raters among the rows of the call.
    pub queries: Vec<Row>,
}

/// What the queries of a call do with some of the keys, the hidden ones: prompt rows, ascending, none of them after
/// the last row of the call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallAttention {
    /// Ordinary attention.
    Plain,
    /// Weights on the hidden keys are zeroed after softmax.
    Zero {
        /// The hidden keys.
        hidden: Vec<Row>,
    },
    /// Weights on the hidden keys are summed onto the first of them after softmax.
    Merge {
        /// The hidden keys.
        hidden: Vec<Row>,
    },
    /// Hidden keys are masked before softmax; a query that would see nothing at all keeps itself.
    Mask {
        /// The hidden keys.
        hidden: Vec<Row>,
        /// `[rows of the call]`: which queries this concerns.
        affected: Vec<bool>,
    },
}

/// The rows that have not been dropped.
pub(super) struct AliveRows {
    row_of: Vec<Row>,
    image_of_row: Vec<Option<usize>>,
    vision: Vec<VisionIndex>,
}

/// A decision named tokens that are not there.
#[derive(Debug)]
pub(super) struct NotPresent;

/// An image that must run in one call has more rows than a call may have.
#[derive(Debug)]
pub(super) struct ImageTooLong {
    pub(super) n_rows: usize,
}

impl AliveRows {
    pub(super) fn all(layout: &PromptLayout) -> Self {
        let mut image_of_row = vec![None; layout.n_rows];
        for (image, span) in layout.vision.iter().enumerate() {
            image_of_row[span.clone()].fill(Some(image));
        }
        let row_of = layout.vision_rows();
        let vision = (0..row_of.len() as u32).map(VisionIndex).collect();
        Self {
            row_of,
            image_of_row,
            vision,
        }
    }

    /// The vision tokens present, ascending.
    pub(super) fn vision(&self) -> &[VisionIndex] {
        &self.vision
    }

    /// The prompt row of a vision token, present or not.
    pub(super) fn row_of(&self, token: VisionIndex) -> Row {
        self.row_of[token.0 as usize]
    }

    /// The prompt rows of vision tokens, present or not.
    pub(super) fn rows_of(&self, tokens: &[VisionIndex]) -> Vec<Row> {
        tokens.iter().map(|&token| self.row_of(token)).collect()
    }

    /// Rows present, text and vision.
    pub(super) fn n_rows(&self) -> usize {
        self.image_of_row.len() - self.row_of.len() + self.vision.len()
    }

    /// Drops the vision tokens that are not among `kept`.
    pub(super) fn keep(&mut self, kept: &[VisionIndex]) -> Result<(), NotPresent> {
        let is_ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
        if !is_ascending || !kept.iter().all(|token| self.vision.binary_search(token).is_ok()) {
            return Err(NotPresent);
        }
        self.vision = kept.to_vec();
        Ok(())
    }

    /// The rows present, ascending, with what they are.
    fn rows(&self) -> Vec<(Row, Kind)> {
        let mut present = vec![false; self.image_of_row.len()];
        for &token in &self.vision {
            present[self.row_of(token).0 as usize] = true;
        }
        let mut kind = Kind::TextBefore;
        let mut rows = Vec::with_capacity(self.n_rows());
        for (row, (&image, present)) in self.image_of_row.iter().zip(present).enumerate() {
            kind = match image {
                Some(_) if !present => continue,
                Some(image) => Kind::Vision { image },
                None if kind == Kind::TextBefore => Kind::TextBefore,
                None => Kind::TextAfter,
            };
            rows.push((Row(row as u32), kind));
        }
        rows
    }

    /// Prompt rows of the vision keys that a treatment hides, up to `last`.
    fn hidden(&self, keys: Keys, last: Row) -> Vec<Row> {
        let n = match keys {
            Keys::All => self.row_of.len(),
            Keys::FirstHalf => self.row_of.len() / 2,
        };
        self.vision
            .iter()
            .filter(|token| (token.0 as usize) < n)
            .map(|&token| self.row_of(token))
            .take_while(|&row| row <= last)
            .collect()
    }
}

/// What a row is, as a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text with no vision before it.
    TextBefore,
    /// Text that sees vision.
    TextAfter,
    Vision {
        image: usize,
    },
}

/// Which vision keys are hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    All,
    /// The first half of all vision tokens of the prompt, rounded down.
    FirstHalf,
}

/// What a query does with vision keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Plain,
    Zero(Keys),
    Merge,
    Mask,
}

impl Treatment {
    /// `None`: the query sees no vision, every treatment is the same to it.
    fn of(kind: Kind, attention: VisionAttention) -> Option<Self> {
        match kind {
            Kind::TextBefore => None,
            Kind::TextAfter => Some(match attention.text_to_vision {
                TextToVision::Keep => Self::Plain,
                TextToVision::Zero => Self::Zero(Keys::All),
                TextToVision::ZeroFirstHalf => Self::Zero(Keys::FirstHalf),
                TextToVision::MergeOntoFirst => Self::Merge,
                TextToVision::Mask => Self::Mask,
            }),
            Kind::Vision { .. } => Some(match attention.vision_to_vision {
                VisionToVision::Keep => Self::Plain,
                VisionToVision::Zero => Self::Zero(Keys::All),
                VisionToVision::Mask => Self::Mask,
            }),
        }
    }

    /// The treatment of a call that has queries of both kinds, if there is one.
    fn joined(a: Option<Self>, b: Option<Self>) -> Option<Option<Self>> {
        match (a, b) {
            (a, None) => Some(a),
            (None, b) => Some(b),
            (a, b) if a == b => Some(a),
            (Some(Self::Plain), Some(Self::Mask)) | (Some(Self::Mask), Some(Self::Plain)) => {
                Some(Some(Self::Mask))
            }
            _ => None,
        }
    }
}

/// Rows that run in one call.
struct Group {
    rows: Vec<(Row, Kind)>,
    treatment: Option<Treatment>,
    /// The image whose rows see each other both ways, if this is one.
    both_ways: Option<usize>,
}

/// A range of layers as calls, in the order in which they must run. `probe` has the queries of all calls.
pub(super) fn split_into_calls(
    params: &PrefillParams<'_>,
    alive: &AliveRows,
    layers: &Range<usize>,
    attention: VisionAttention,
    probe: Option<&CallProbe>,
) -> Result<Vec<RangeCall>, ImageTooLong> {
    let mut calls = Vec::new();
    for group in group_rows(params, alive, attention) {
        if group.both_ways.is_some() && group.rows.len() > params.max_rows_per_call {
            return Err(ImageTooLong {
                n_rows: group.rows.len(),
            });
        }
        for rows in group.rows.chunks(max_rows(params, &group, probe)) {
            calls.push(RangeCall {
                layers: layers.clone(),
                rows: rows.iter().map(|&(row, _)| row).collect(),
                attention: call_attention(alive, rows, group.treatment, attention),
                probe: probe.and_then(|probe| probe.within(rows)),
                causal: group.both_ways.is_none(),
            });
        }
    }
    Ok(calls)
}

/// Rows that one call of a group may have.
fn max_rows(params: &PrefillParams<'_>, group: &Group, probe: Option<&CallProbe>) -> usize {
    let reads_attention = probe
        .filter(|probe| probe.statistic != Statistic::Contribution)
        .is_some_and(|probe| probe.within(&group.rows).is_some());
    let max = if reads_attention {
        params.max_rows_per_call.min(params.max_rows_per_attention_probe)
    } else {
        params.max_rows_per_call
    };
    max.max(1)
}

impl CallProbe {
    /// The part of a probe that concerns some rows, ascending; `None` if it concerns none of them.
    fn within(&self, rows: &[(Row, Kind)]) -> Option<Self> {
        let is_there = |query: &&Row| rows.binary_search_by_key(*query, |&(row, _)| row).is_ok();
        let queries: Vec<Row> = self.queries.iter().filter(is_there).copied().collect();
        (!queries.is_empty()).then_some(Self { queries, ..*self })
    }
}

fn group_rows(params: &PrefillParams<'_>, alive: &AliveRows, attention: VisionAttention) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (row, kind) in alive.rows() {
        let both_ways = match kind {
            Kind::Vision { image } if !params.causal_images => Some(image),
            _ => None,
        };
        let treatment = Treatment::of(kind, attention);
        if let Some(group) = groups.last_mut().filter(|group| group.both_ways == both_ways)
            && let Some(joined) = Treatment::joined(group.treatment, treatment)
        {
            group.rows.push((row, kind));
            group.treatment = joined;
        } else {
            groups.push(Group {
                rows: vec![(row, kind)],
                treatment,
                both_ways,
            });
        }
    }
    groups
}

fn call_attention(
    alive: &AliveRows,
    rows: &[(Row, Kind)],
    treatment: Option<Treatment>,
    attention: VisionAttention,
) -> CallAttention {
    let keys = match treatment {
        None | Some(Treatment::Plain) => return CallAttention::Plain,
        Some(Treatment::Zero(keys)) => keys,
        Some(Treatment::Merge | Treatment::Mask) => Keys::All,
    };
    let hidden = alive.hidden(keys, rows[rows.len() - 1].0);
    if hidden.is_empty() {
        return CallAttention::Plain;
    }
    match treatment {
        Some(Treatment::Merge) => CallAttention::Merge { hidden },
        Some(Treatment::Mask) => {
            let is_masked =
                |&(_, kind): &(Row, Kind)| Treatment::of(kind, attention) == Some(Treatment::Mask);
            let affected: Vec<bool> = rows.iter().map(is_masked).collect();
            if affected.contains(&true) {
                CallAttention::Mask { hidden, affected }
            } else {
                CallAttention::Plain
            }
        }
        _ => CallAttention::Zero { hidden },
    }
}
