//! What goes on with answers, one token each.

use super::store::PrefixStore;
use super::with_room;
use crate::engine::{CancelHandle, Model};
use crate::ffi;

/// A cache that goes on with answers, also between two calls of reading a prompt into it: there the answers that are in the
/// making need not wait for the prompt ([`Cache::begin_beside`](super::Cache::begin_beside)).
pub struct Decoder<'a> {
    pub(crate) context: &'a mut ffi::Context,
    pub(crate) store: &'a mut PrefixStore,
    pub(crate) model: &'a Model,
    pub(crate) n_ctx: usize,
}

impl Decoder<'_> {
    /// Runs tokens of several sequences. On success the logits of the i-th are there as row i.
    pub(crate) fn decode(
        &mut self,
        tokens: &[ffi::Token<'_>],
        cancel: &CancelHandle,
    ) -> Result<(), ffi::Error> {
        let Self { context, store, .. } = self;
        context.watching(cancel.flag(), |context| {
            with_room(context, store, |context| context.decode(tokens, 0))
        })
    }
}

impl std::fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("model", self.model).finish()
    }
}
