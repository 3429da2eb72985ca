//! Which rows run together: a range of layers as calls in each of which all queries treat vision alike.
//!
//! Weights zeroed or merged after softmax are obtained by changing the values that a call sees, so text and vision
//! queries that treat vision differently run in different calls, in prompt order (`P+V1 | T1 | V2 | T2`). Masks act on
//! single queries, so masked and ordinary queries share a call. Text before the first image sees no vision and joins
//! whatever follows it.

use std::ops::Range;

use super::{PrefillParams, Shared};
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
    /// Whether the prefill may [go back](super::LayerRanges::rewind) to a layer within.
    pub can_rewind: bool,
    /// If the rows of the call see each other both ways, and all that is before them: the last row that they see. Else
    /// each sees only rows up to itself.
    pub both_ways_until: Option<Row>,
    /// Rows of the range that are run in later calls.
    pub n_more: usize,
}

/// What a call is probed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallProbe {
    /// The last layer of the call, or all of its layers.
    pub layers: Range<usize>,
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

/// The rows that have not been dropped, and how far each has come.
pub(super) struct AliveRows {
    row_of: Vec<Row>,
    image_of_row: Vec<Option<usize>>,
    vision: Vec<VisionIndex>,
    /// `[n_rows]`: the next layer of each row.
    due: Vec<usize>,
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
    /// All rows of a prompt, of which the first are due at the layers given, the others at layer 0.
    pub(super) fn all(layout: &PromptLayout, due: &[usize]) -> Self {
        let mut image_of_row = vec![None; layout.n_rows];
        for (image, span) in layout.vision.iter().enumerate() {
            image_of_row[span.clone()].fill(Some(image));
        }
        let row_of = layout.vision_rows();
        let vision = (0..row_of.len() as u32).map(VisionIndex).collect();
        let mut due = due.to_vec();
        due.resize(layout.n_rows, 0);
        Self {
            row_of,
            image_of_row,
            vision,
            due,
        }
    }

    /// The vision tokens that entered the model for an earlier question, and those of new pictures; `due` are the rows that
    /// are there.
    pub(super) fn there_and_new(&self, due: &[usize]) -> (Vec<VisionIndex>, Vec<VisionIndex>) {
        let row = |token: &VisionIndex| self.row_of(*token).0 as usize;
        let (there, new): (Vec<_>, Vec<_>) = self.vision.iter().partition(|token| row(token) < due.len());
        (
            there.into_iter().filter(|token| due[row(token)] > 0).collect(),
            new,
        )
    }

    /// Whether a row has not been dropped.
    pub(super) fn is_present(&self, row: Row) -> bool {
        let is_text = self.image_of_row[row.0 as usize].is_none();
        is_text
            || self
                .row_of
                .binary_search(&row)
                .is_ok_and(|token| self.vision.binary_search(&VisionIndex(token as u32)).is_ok())
    }

    fn present(&self) -> impl Iterator<Item = usize> + '_ {
        let mut is_present: Vec<bool> = self.image_of_row.iter().map(Option::is_none).collect();
        for &token in &self.vision {
            is_present[self.row_of(token).0 as usize] = true;
        }
        (0..self.due.len()).filter(move |&row| is_present[row])
    }

    /// Whether any row waits at a layer.
    pub(super) fn is_due(&self, il: usize) -> bool {
        self.present().any(|row| self.due[row] == il)
    }

    /// Whether all of some rows wait at a layer.
    pub(super) fn are_due(&self, rows: &[Row], il: usize) -> bool {
        rows.iter().all(|row| self.due[row.0 as usize] == il)
    }

    /// The rows that are to be run in a layer, ascending.
    pub(super) fn rows_due(&self, il: usize) -> Vec<Row> {
        let rows = self.present().filter(|&row| self.due[row] == il);
        rows.map(|row| Row(row as u32)).collect()
    }

    /// Rows have come to layer `il`.
    pub(super) fn advance(&mut self, rows: &[Row], il: usize) {
        for row in rows {
            self.due[row.0 as usize] = il;
        }
    }

    /// Rows times layers that are still to be run if nothing more is dropped.
    pub(super) fn n_to_run(&self, n_layer: usize) -> usize {
        self.present()
            .map(|row| n_layer - self.due[row].min(n_layer))
            .sum()
    }

    /// The rows present that have been in a layer already, as ranges.
    pub(super) fn resident(&self, il: usize) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for row in self.present().filter(|&row| self.due[row] > il) {
            match ranges.last_mut() {
                Some(last) if last.end == row => last.end = row + 1,
                _ => ranges.push(row..row + 1),
            }
        }
        ranges
    }

    /// The shared rows that depend on what is dropped, from the first drop on: vision, and this turn's text after it.
    pub(super) fn open_rows(&self, shared: &Shared<'_>) -> Vec<Row> {
        let first_vision = self.row_of.first().map_or(usize::MAX, |row| row.0 as usize);
        (0..shared.n_rows.min(self.image_of_row.len()))
            .filter(|&row| {
                self.image_of_row[row].is_some() || (row >= shared.n_earlier && row > first_vision)
            })
            .map(|row| Row(row as u32))
            .collect()
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

    /// What rows are where the vision tokens `present` are there.
    pub(super) fn kinds(&self, rows: &[Row], present: &[VisionIndex]) -> Kinds<'_> {
        let first_vision = present.first().map_or(u32::MAX, |&token| self.row_of(token).0);
        let kind = |&row: &Row| match self.image_of_row[row.0 as usize] {
            Some(image) => (row, Kind::Vision { image }),
            None if row.0 < first_vision => (row, Kind::TextBefore),
            None => (row, Kind::TextAfter),
        };
        Kinds {
            rows: rows.iter().map(kind).collect(),
            row_of: &self.row_of,
        }
    }
}

/// Rows, ascending, with what they are.
pub(super) struct Kinds<'a> {
    rows: Vec<(Row, Kind)>,
    /// The row of each vision token of the prompt.
    row_of: &'a [Row],
}

impl Kinds<'_> {
    /// Prompt rows of the vision keys that a treatment hides, up to `last`.
    fn hidden(&self, present: &[VisionIndex], keys: Keys, last: Row) -> Vec<Row> {
        let n = match keys {
            Keys::All => self.row_of.len(),
            Keys::FirstHalf => self.row_of.len() / 2,
        };
        present
            .iter()
            .filter(|token| (token.0 as usize) < n)
            .map(|token| self.row_of[token.0 as usize])
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

/// Some rows through a range of layers as calls, in the order in which they must run. `present` are the vision tokens that
/// are there, `probe` has the queries of all calls.
pub(super) fn split_into_calls(
    params: &PrefillParams<'_>,
    kinds: &Kinds<'_>,
    present: &[VisionIndex],
    layers: &Range<usize>,
    attention: VisionAttention,
    probe: Option<&CallProbe>,
) -> Result<Vec<RangeCall>, ImageTooLong> {
    let mut calls = Vec::new();
    let mut n_more = kinds.rows.len();
    for group in group_rows(params, &kinds.rows, attention) {
        if group.both_ways.is_some() && group.rows.len() > params.max_rows_per_call {
            return Err(ImageTooLong {
                n_rows: group.rows.len(),
            });
        }
        let last_of_image = |image: usize| Row(params.layout.vision[image].end as u32 - 1);
        for rows in group.rows.chunks(max_rows(params, &group, probe)) {
            n_more -= rows.len();
            calls.push(RangeCall {
                layers: layers.clone(),
                rows: rows.iter().map(|&(row, _)| row).collect(),
                attention: call_attention(kinds, present, rows, group.treatment, attention),
                probe: probe.and_then(|probe| probe.within(rows)),
                can_rewind: layers.len() > 1 && probe.is_some_and(|probe| probe.layers == *layers),
                both_ways_until: group.both_ways.map(last_of_image),
                n_more,
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
        (!queries.is_empty()).then(|| Self {
            queries,
            ..self.clone()
        })
    }
}

fn group_rows(params: &PrefillParams<'_>, rows: &[(Row, Kind)], attention: VisionAttention) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for &(row, kind) in rows {
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
    kinds: &Kinds<'_>,
    present: &[VisionIndex],
    rows: &[(Row, Kind)],
    treatment: Option<Treatment>,
    attention: VisionAttention,
) -> CallAttention {
    let keys = match treatment {
        None | Some(Treatment::Plain) => return CallAttention::Plain,
        Some(Treatment::Zero(keys)) => keys,
        Some(Treatment::Merge | Treatment::Mask) => Keys::All,
    };
    let hidden = kinds.hidden(present, keys, rows[rows.len() - 1].0);
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
