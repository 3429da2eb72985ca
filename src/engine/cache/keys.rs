//! What each row of a prompt is, so that rows that are there already are found.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::store::RowKey;
use crate::engine::prompt::{EncodedPrompt, MediaSpan};
use crate::policy::Policy;

/// What a policy does, as far as rows depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyKey {
    /// Of the rows of pictures, and of text between them that no question has met yet.
    shared: u64,
    /// Of text that follows a picture.
    own: u64,
}

impl PolicyKey {
    /// Nothing is done: all rows are what they are without any policy.
    pub(crate) const OFF: Self = Self { shared: 0, own: 0 };

    pub(crate) fn of(policy: &dyn Policy) -> Self {
        let shared = policy.shared_key();
        Self {
            shared: if shared.is_empty() { 0 } else { hash(&shared) },
            own: hash(&policy.key()),
        }
    }

    /// Pictures of one turn: what is done to them before the model is decided for all of them together.
    fn of_pictures<'a>(self, pictures: impl Iterator<Item = &'a MediaSpan>) -> u64 {
        if self.shared == 0 {
            return 0;
        }
        let pictures: Vec<_> = pictures.map(|media| (media.hash, media.tile)).collect();
        hash(&(self.shared, pictures))
    }

    /// Text that follows a picture.
    pub(crate) fn text(self, token: i32) -> RowKey {
        RowKey {
            what: (RowKey::TEXT, token as u64),
            seen: self.own,
        }
    }

    /// Whether text that follows a picture depends on nothing but what is before it.
    pub(crate) fn is_off(self) -> bool {
        self == Self::OFF
    }
}

/// The key of each row of a prompt: `[n_rows]`. The text between the pictures of `open_turn` has met no question.
pub(crate) fn row_keys(prompt: &EncodedPrompt, policy: PolicyKey, open_turn: Option<usize>) -> Vec<RowKey> {
    let mut keys: Vec<RowKey> = prompt.token.iter().map(|&token| policy.text(token)).collect();
    let first = prompt.layout.vision.first().map_or(keys.len(), |span| span.start);
    for key in &mut keys[..first] {
        key.seen = 0;
    }
    if let Some(turn) = open_turn.and_then(|turn| prompt.turns.get(turn)) {
        for key in &mut keys[turn.begin.max(first)..turn.vision_end.max(first)] {
            key.seen = policy.shared;
        }
    }
    for turn in &prompt.turns {
        let pictures = || prompt.media.iter().filter(|media| turn.holds(media));
        let seen = policy.of_pictures(pictures());
        for media in pictures() {
            for (i, row) in media.rows.clone().enumerate() {
                keys[row] = RowKey {
                    what: (media.hash, ((media.tile as u64) << 32) | i as u64),
                    seen,
                };
            }
        }
    }
    keys
}

pub(crate) fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
