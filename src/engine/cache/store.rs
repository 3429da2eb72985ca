//! What earlier requests have left in the cache, for those that begin alike.

use std::sync::Arc;

use crate::ffi;

/// What a row of a prompt is, and what it depends on: rows of equal keys after rows of equal keys hold the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowKey {
    /// The token, or the picture and which of its tokens.
    pub(crate) what: (u64, u64),
    /// What was done to pictures before it that it can see.
    pub(crate) seen: u64,
}

impl RowKey {
    /// Stands for the picture in the key of a token.
    pub(crate) const TEXT: u64 = u64::MAX;

    fn is_picture(&self) -> bool {
        self.what.0 != Self::TEXT
    }
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    /// When it was used last.
    used: u64,
}

/// A sequence, and what a prompt must begin with to go on from it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) sequence: Arc<ffi::Sequence>,
    /// `[rows]`
    pub(crate) keys: Vec<RowKey>,
    /// The turn whose pictures are its end, and whose text between them is not settled; none if it ends in an answer.
    pub(crate) open_turn: Option<usize>,
    /// Rows up to here, and those from `own_from` on, depend on nothing behind them: the sequence can be cut there.
    pub(crate) free_until: usize,
    pub(crate) own_from: usize,
}

/// Sequences by their rows, the one not used for longest gone first.
#[derive(Debug, Default)]
pub(crate) struct PrefixStore {
    entries: Vec<Entry>,
    max_entries: usize,
    /// Whether a sequence can be cut short: a recurrent state cannot go back.
    can_cut: bool,
    clock: u64,
}

/// A sequence that a prompt can begin with.
pub(crate) struct Found {
    pub(crate) sequence: Arc<ffi::Sequence>,
    /// Rows that it has.
    pub(crate) n_rows: usize,
    /// Rows that the prompt begins with. If these are fewer, a fork of the sequence is cut there.
    pub(crate) n_common: usize,
}

impl PrefixStore {
    pub(crate) fn new(max_entries: usize, can_cut: bool) -> Self {
        Self {
            max_entries,
            can_cut,
            ..Self::default()
        }
    }

    /// The sequence that most rows of a prompt can be taken from, at most the first `most`. `keys` are those of the prompt
    /// where a turn, if any, is open; answers of the prompt end at `answer_ends`.
    pub(crate) fn find(
        &mut self,
        most: usize,
        keys: impl Fn(Option<usize>) -> Vec<RowKey>,
        answer_ends: &[usize],
    ) -> Option<Found> {
        let common = |entry: &Entry| {
            let keys = keys(entry.kept.open_turn);
            entry.kept.n_common(most, &keys, answer_ends)
        };
        let found = self.entries.iter().map(common).enumerate();
        let (i, n_common) = found
            .filter(|&(i, n_common)| {
                n_common > 0 && (self.can_cut || n_common == self.entries[i].kept.keys.len())
            })
            .max_by_key(|&(i, n_common)| (n_common, self.entries[i].kept.keys.len() == n_common))?;
        self.clock += 1;
        let entry = &mut self.entries[i];
        entry.used = self.clock;
        Some(Found {
            sequence: Arc::clone(&entry.kept.sequence),
            n_rows: entry.kept.keys.len(),
            n_common,
        })
    }

    /// Keeps a sequence. Those that are its beginning, and can be had from it, go.
    pub(crate) fn keep(&mut self, kept: Kept) {
        self.clock += 1;
        self.entries.retain(|other| {
            let n_rows = other.kept.keys.len();
            let can_be_had = n_rows == kept.keys.len() || (self.can_cut && kept.can_end_at(n_rows));
            !(kept.keys.starts_with(&other.kept.keys) && can_be_had)
        });
        self.entries.push(Entry {
            kept,
            used: self.clock,
        });
        while self.entries.len() > self.max_entries {
            let n_older = self.entries.len() - 1;
            if !self.forget_one_of(n_older) {
                self.entries.clear();
            }
        }
    }

    /// Forgets the sequence that is missed least: text is read again sooner than pictures are, and what was not used for long
    /// is not asked for. Returns whether there was one.
    pub(crate) fn forget_one(&mut self) -> bool {
        self.forget_one_of(self.entries.len())
    }

    /// As [`forget_one`](Self::forget_one), but never the one that was kept last.
    pub(crate) fn forget_older(&mut self) -> bool {
        let newest = (0..self.entries.len()).max_by_key(|&i| self.entries[i].used);
        let Some(newest) = newest else { return false };
        let n_older = self.entries.len() - 1;
        self.entries.swap(newest, n_older);
        self.forget_one_of(n_older)
    }

    /// Forgets one of the first `n` entries.
    fn forget_one_of(&mut self, n: usize) -> bool {
        let missed_least =
            (0..n).min_by_key(|&i| (self.entries[i].kept.has_pictures(), self.entries[i].used));
        missed_least.map(|i| self.entries.swap_remove(i)).is_some()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

impl Kept {
    /// Rows, at most `most`, that a prompt of these keys can take from it. What an answer saw of the pictures is gone with its
    /// turn: it is there as a whole, or the turn is read anew.
    fn n_common(&self, most: usize, keys: &[RowKey], answer_ends: &[usize]) -> usize {
        let n_equal = self.keys.iter().zip(keys).take_while(|(a, b)| a == b).count();
        let n_equal = n_equal.min(most);
        let is_whole = self.open_turn.is_some() || answer_ends.contains(&n_equal);
        if n_equal <= self.free_until || (is_whole && self.can_end_at(n_equal)) {
            n_equal
        } else {
            n_equal.min(self.free_until)
        }
    }

    fn has_pictures(&self) -> bool {
        self.keys.iter().any(|key| key.is_picture())
    }

    fn can_end_at(&self, n_rows: usize) -> bool {
        n_rows <= self.free_until || n_rows >= self.own_from
    }
}
