//! Reading a prompt turn by turn.
//!
//! A turn is judged by its own last row: its pictures and those of earlier turns are read up to the layer where the policy
//! drops them for it. Its text stays as it was computed. So a conversation that is read afresh, from text, gives what it
//! gave when it came turn by turn.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::keys::{PolicyKey, row_keys};
use super::staged::{OnProbe, StagedTurn};
use super::store::{Kept, PrefixStore, RowKey};
use super::{BeforeCall, Decoder, Shared, dense, failed, with_room};
use crate::engine::Model;
use crate::engine::error::Error;
use crate::engine::prefill::{self, PrefillError, PrefillParams};
use crate::engine::prompt::EncodedPrompt;
use crate::ffi::{self, Status};
use crate::policy::trace::PrefillTrace;
use crate::policy::{self, Embeddings, Needs, Policy, PromptLayout, Skipped, StagePolicy};

/// A prompt that was read.
pub(crate) struct Read {
    /// Its last turn, which the answer goes on.
    pub(crate) turn: Turn,
    /// What the last turn's prefill did.
    pub(crate) trace: PrefillTrace,
    pub(crate) reused: Reused,
}

/// What was there before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reused {
    /// Rows of the prompt of which something had been computed.
    pub(crate) n_rows: usize,
    /// The first layer that a picture had not been through, if any had been through some but not all.
    pub(crate) frontier: Option<usize>,
}

/// A question at work: a branch of the sequence that it asks.
pub(crate) struct Turn {
    branch: ffi::Sequence,
    /// The branch's parent stays as long as the branch.
    _parent: Shared,
    keys: Vec<RowKey>,
    /// The text between the pictures of this turn, which became the question's own.
    settles: Vec<i32>,
    /// Pictures behind that text have been through more layers than it has for this question, for an earlier one. What they
    /// became there they became of other text.
    is_behind: bool,
    free_until: usize,
    policy: PolicyKey,
    has_vision: bool,
}

impl Turn {
    pub(crate) fn sequence(&self) -> &ffi::Sequence {
        &self.branch
    }

    /// The turn as a sequence by itself, with the tokens of its answer that were computed. There is none where the memory
    /// cannot do that, or where its pictures are to be read anew for it: then the next turn begins with reading this one.
    pub(crate) fn settled(self, context: &mut ffi::Context, answer: &[i32]) -> Option<Kept> {
        if self.is_behind {
            return None;
        }
        context.settle(&self.branch, &self.settles).ok()?;
        let seen = if self.has_vision {
            self.policy
        } else {
            PolicyKey::OFF
        };
        let own_from = self.keys.len();
        let mut keys = self.keys;
        keys.extend(answer.iter().map(|&token| seen.text(token)));
        let n_rows = keys.len();
        Some(Kept {
            sequence: Arc::new(self.branch),
            keys,
            open_turn: None,
            free_until: if seen.is_off() { n_rows } else { self.free_until },
            own_from,
        })
    }
}

/// What reads a prompt.
pub(crate) struct Reader<'a> {
    pub(crate) model: &'a Model,
    pub(crate) cuts: &'a [usize],
    pub(crate) prompt: &'a EncodedPrompt,
    /// `None`: nothing is pruned.
    pub(crate) policy: Option<&'a dyn Policy>,
    /// Rows that the answer may take.
    pub(crate) n_spare: usize,
    /// Rows that all sequences together may have.
    pub(crate) n_ctx: usize,
    pub(crate) store: &'a mut PrefixStore,
}

/// The sequence that a prompt has been read into so far.
struct Position {
    sequence: Shared,
    n_rows: usize,
}

impl Reader<'_> {
    /// Reads the prompt. There is none if it was stopped.
    pub(crate) fn read(
        mut self,
        context: &mut ffi::Context,
        before_call: BeforeCall<'_>,
    ) -> Result<Option<Read>, Error> {
        let key = self.policy.map_or(PolicyKey::OFF, PolicyKey::of);
        let mut position = self.find(context, key)?;
        let n_reused = position.n_rows;
        let frontier = self.frontier(context, &position)?;
        let n_turns = self.prompt.turns.len();
        for (i, span) in self.prompt.turns.iter().enumerate() {
            let is_last = i + 1 == n_turns;
            if !is_last && position.n_rows >= span.answer_end {
                continue;
            }
            let turn = if !is_last && position.n_rows >= span.end {
                let branch = with_room(context, self.store, |context| context.branch(&position.sequence));
                let branch = branch.map_err(failed("the prompt"))?;
                self.turn(branch, &position, span.end, key)
            } else {
                let mut before_call = |done: f32, decoder: &mut Decoder<'_>| {
                    before_call((i as f32 + done) / n_turns as f32, decoder)
                };
                let mut read = self.read_turn(context, &mut position, i, key, &mut before_call)?;
                if !is_last && read.as_ref().is_some_and(|(turn, _)| turn.is_behind) {
                    drop(read);
                    position = self.back_to(context, &position, span.begin)?;
                    read = self.read_turn(context, &mut position, i, key, &mut before_call)?;
                }
                let Some((turn, trace)) = read else {
                    return Ok(None);
                };
                if is_last {
                    let reused = Reused {
                        n_rows: n_reused,
                        frontier,
                    };
                    return Ok(Some(Read { turn, trace, reused }));
                }
                turn
            };
            let answer = position.n_rows.max(span.end)..span.answer_end;
            if self.read_answer(context, &turn, answer, before_call)?.is_break() {
                return Ok(None);
            }
            let answer = &self.prompt.token[span.end..span.answer_end];
            let kept = turn.settled(context, answer).ok_or(Error::Compute {
                what: "the prompt",
                reason: "an earlier turn could not be kept".to_owned(),
            })?;
            position = Position {
                sequence: Arc::clone(&kept.sequence),
                n_rows: span.answer_end,
            };
            self.store.keep(kept);
        }
        Ok(None)
    }

    /// Where the prompt can be gone on from: rows that are there, or a new sequence.
    fn find(&mut self, context: &mut ffi::Context, key: PolicyKey) -> Result<Position, Error> {
        let layout = &self.prompt.layout;
        // The last row is to be computed, and a picture is there as a whole or not at all.
        let most = match layout.vision.last() {
            Some(last) if layout.ends_in_image() => last.start,
            _ => layout.n_rows - 1,
        };
        let answer_ends: Vec<usize> = self.prompt.turns.iter().map(|turn| turn.answer_end).collect();
        let keys = |open| row_keys(self.prompt, key, open);
        while let Some(found) = self.store.find(most, keys, &answer_ends) {
            if found.n_common == found.n_rows {
                return Ok(Position {
                    sequence: found.sequence,
                    n_rows: found.n_rows,
                });
            }
            let n_common = start_of_picture(layout, found.n_common);
            let fork = with_room(context, self.store, |context| context.fork(&found.sequence));
            let fork = fork.map_err(failed("the prompt"))?;
            match context.truncate(&fork, n_common) {
                Ok(()) => {
                    return Ok(Position {
                        sequence: Arc::new(fork),
                        n_rows: n_common,
                    });
                }
                // A memory that cannot go back: what it has is of no use here.
                Err(error) if error.status == Status::Unsupported => {
                    if !self.store.forget_one() {
                        break;
                    }
                }
                Err(error) => return Err(failed("the prompt")(error)),
            }
        }
        let sequence = with_room(context, self.store, ffi::Context::new_sequence);
        Ok(Position {
            sequence: Arc::new(sequence.map_err(failed("the prompt"))?),
            n_rows: 0,
        })
    }

    fn frontier(&self, context: &mut ffi::Context, position: &Position) -> Result<Option<usize>, Error> {
        let due = context
            .due(&position.sequence, position.n_rows)
            .map_err(failed("the prompt"))?;
        let n_layer = self.model.n_layer();
        Ok(due.into_iter().filter(|&il| il > 0 && il < n_layer).min())
    }

    /// Reads a turn up to its last row.
    fn read_turn(
        &mut self,
        context: &mut ffi::Context,
        position: &mut Position,
        i: usize,
        key: PolicyKey,
        before_call: BeforeCall<'_>,
    ) -> Result<Option<(Turn, PrefillTrace)>, Error> {
        let span = self.prompt.turns[i];
        let layout = self.prompt.layout_until(span.end);
        let compute = failed("the prompt");
        let n_known = position.n_rows;
        let is_staged = self.is_staged(context, position, &layout)?;
        if n_known < span.vision_end {
            // The sequence of the pictures is this turn's alone until it is kept.
            if Arc::strong_count(&position.sequence) > 1 {
                let fork = with_room(context, self.store, |context| context.fork(&position.sequence));
                position.sequence = Arc::new(fork.map_err(&compute)?);
            }
            let rows = self.prompt.rows(n_known..span.vision_end);
            context.add(&position.sequence, &rows).map_err(&compute)?;
            position.n_rows = span.vision_end;
            if !is_staged
                && self
                    .run_dense(context, &position.sequence, n_known..span.vision_end, before_call)?
                    .is_break()
            {
                return Ok(None);
            }
        }
        let n_shared = position.n_rows;
        let branch = with_room(context, self.store, |context| context.branch(&position.sequence));
        let branch = branch.map_err(&compute)?;
        if n_shared < span.end {
            context
                .add(&branch, &self.prompt.rows(n_shared..span.end))
                .map_err(&compute)?;
        }
        let trace = if is_staged {
            let own = Own {
                branch: &branch,
                n_known,
                n_shared,
                n_earlier: if n_shared > span.vision_end {
                    n_shared
                } else {
                    span.begin
                },
            };
            self.run_staged(context, &layout, &own, before_call)?
        } else if self
            .run_dense(context, &branch, n_shared..span.end, before_call)?
            .is_break()
        {
            None
        } else {
            let reason = layout.nothing_to_prune().filter(|_| self.policy.is_some());
            let mut trace =
                PrefillTrace::dense(&layout, self.model.n_layer(), reason.unwrap_or(Skipped::Off));
            for layer in &mut trace.layers {
                layer.resident = std::iter::once(0..n_known)
                    .filter(|rows| !rows.is_empty())
                    .collect();
            }
            Some(trace)
        };
        let Some(trace) = trace else { return Ok(None) };
        if n_known < span.vision_end {
            self.keep_pictures(position, i, key);
        }
        let mut turn = self.turn(branch, position, span.end, key);
        if let Some(il) = trace.drops.iter().find_map(|drop| drop.after) {
            turn.settles = self.prompt.text_between_pictures(&span);
            turn.is_behind = self.is_behind(context, position, &turn.settles, il)?;
        }
        Ok(Some((turn, trace)))
    }

    /// Whether pictures behind text that a question had to itself after layer `il` have been through more layers.
    fn is_behind(
        &self,
        context: &mut ffi::Context,
        position: &Position,
        text: &[i32],
        il: usize,
    ) -> Result<bool, Error> {
        let Some(&first) = text.first() else {
            return Ok(false);
        };
        let due = context
            .due(&position.sequence, position.n_rows)
            .map_err(failed("the prompt"))?;
        let rows = first as usize..position.n_rows;
        Ok(rows
            .into_iter()
            .any(|row| self.prompt.token[row] == -1 && due[row] > il + 1))
    }

    /// A sequence with the first rows of another one.
    fn back_to(
        &mut self,
        context: &mut ffi::Context,
        position: &Position,
        n_rows: usize,
    ) -> Result<Position, Error> {
        let fork = with_room(context, self.store, |context| context.fork(&position.sequence));
        let fork = fork.map_err(failed("the prompt"))?;
        context.truncate(&fork, n_rows).map_err(failed("the prompt"))?;
        Ok(Position {
            sequence: Arc::new(fork),
            n_rows,
        })
    }

    /// The sequence that ends with the pictures of a turn is what other questions about them begin with.
    fn keep_pictures(&mut self, position: &Position, i: usize, key: PolicyKey) {
        let keys = row_keys(self.prompt, key, Some(i))[..position.n_rows].to_vec();
        self.store.keep(Kept {
            sequence: Arc::clone(&position.sequence),
            free_until: if key.is_off() {
                keys.len()
            } else {
                self.first_vision()
            },
            own_from: keys.len(),
            open_turn: Some(i),
            keys,
        });
    }

    /// A branch that has rows of the prompt up to `end`.
    fn turn(&self, branch: ffi::Sequence, position: &Position, end: usize, key: PolicyKey) -> Turn {
        Turn {
            branch,
            _parent: Arc::clone(&position.sequence),
            keys: row_keys(self.prompt, key, None)[..end].to_vec(),
            settles: Vec::new(),
            is_behind: false,
            free_until: self.first_vision().min(end),
            policy: key,
            has_vision: self.first_vision() < end,
        }
    }

    fn first_vision(&self) -> usize {
        let layout = &self.prompt.layout;
        layout.vision.first().map_or(layout.n_rows, |span| span.start)
    }

    /// Whether the layers are run in ranges: for a policy with something to prune, or where pictures have been through
    /// some layers only.
    fn is_staged(
        &self,
        context: &mut ffi::Context,
        position: &Position,
        layout: &PromptLayout,
    ) -> Result<bool, Error> {
        let is_pruned = self.policy.is_some() && layout.nothing_to_prune().is_none();
        Ok(is_pruned || self.frontier(context, position)?.is_some())
    }

    fn run_dense(
        &mut self,
        context: &mut ffi::Context,
        sequence: &ffi::Sequence,
        rows: Range<usize>,
        before_call: BeforeCall<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let n_rows = self.prompt.layout.n_rows;
        let (prompt, n_spare) = (self.prompt, self.n_spare + n_rows - rows.end);
        let mut next = rows.start;
        loop {
            let (store, model, n_ctx) = (&mut *self.store, self.model, self.n_ctx);
            let to_run = next..rows.end;
            let mut before_call = |begin: usize, context: &mut ffi::Context| {
                next = begin;
                let store = &mut *store;
                let mut decoder = Decoder {
                    context,
                    store,
                    model,
                    n_ctx,
                };
                before_call(begin as f32 / n_rows as f32, &mut decoder)
            };
            match dense::run(context, sequence, prompt, to_run, n_spare, &mut before_call) {
                Ok(flow) => return Ok(flow),
                Err(error) if error.status == Status::NoSlot && self.store.forget_one() => {}
                Err(error) if error.status == Status::Aborted => return Ok(ControlFlow::Break(())),
                Err(error) => return Err(failed("the prompt")(error)),
            }
        }
    }

    fn run_staged(
        &mut self,
        context: &mut ffi::Context,
        layout: &PromptLayout,
        own: &Own<'_>,
        before_call: BeforeCall<'_>,
    ) -> Result<Option<PrefillTrace>, Error> {
        let n_layer = self.model.n_layer();
        let mut policy: Box<dyn StagePolicy> = match self.policy {
            Some(policy) => policy::begin(policy, n_layer, layout)?,
            None => Box::new(policy::off::Off::because(Skipped::Off)),
        };
        let due = context
            .due(own.branch, layout.n_rows)
            .map_err(failed("the prompt"))?;
        let shared = prefill::Shared {
            n_rows: own.n_shared,
            n_earlier: own.n_earlier,
            due: &due[..own.n_known],
        };
        let mut nothing = |_: &mut ffi::Context, _: &ffi::Sequence, _| Ok(());
        let stage = Stage {
            model: self.model,
            cuts: self.cuts,
            prompt: self.prompt,
            layout,
            n_spare: self.n_spare + self.prompt.layout.n_rows - layout.n_rows,
            n_ctx: self.n_ctx,
            store: self.store,
        };
        unless_stopped(stage.run(
            context,
            own.branch,
            shared,
            policy.as_mut(),
            before_call,
            &mut nothing,
        ))
    }

    /// The answer of an earlier turn, as it stands in the prompt.
    fn read_answer(
        &mut self,
        context: &mut ffi::Context,
        turn: &Turn,
        rows: Range<usize>,
        before_call: BeforeCall<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        if rows.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        context
            .add(&turn.branch, &self.prompt.rows(rows.clone()))
            .map_err(failed("the prompt"))?;
        self.run_dense(context, &turn.branch, rows, before_call)
    }
}

/// The rows of a turn, and whose they are.
struct Own<'a> {
    branch: &'a ffi::Sequence,
    /// Rows that were there before.
    n_known: usize,
    /// Rows of the parent.
    n_shared: usize,
    /// Rows of earlier turns.
    n_earlier: usize,
}

/// What a staged prefill runs on.
pub(crate) struct Stage<'a> {
    pub(crate) model: &'a Model,
    pub(crate) cuts: &'a [usize],
    pub(crate) prompt: &'a EncodedPrompt,
    pub(crate) layout: &'a PromptLayout,
    pub(crate) n_spare: usize,
    /// Rows that all sequences together may have.
    pub(crate) n_ctx: usize,
    pub(crate) store: &'a mut PrefixStore,
}

impl Stage<'_> {
    /// Runs the rows of a sequence through all layers as a policy says.
    pub(crate) fn run(
        self,
        context: &mut ffi::Context,
        sequence: &ffi::Sequence,
        shared: prefill::Shared<'_>,
        policy: &mut dyn StagePolicy,
        before_call: BeforeCall<'_>,
        on_probe: OnProbe<'_>,
    ) -> Result<PrefillTrace, PrefillError<ffi::Error>> {
        let n_layer = self.model.n_layer();
        let text = match policy.needs_embeddings() {
            Needs::Nothing | Needs::Vision => None,
            _ => Some(self.text_embeddings().map_err(|source| PrefillError::Engine {
                layers: 0..n_layer,
                source,
            })?),
        };
        let params = PrefillParams {
            layout: self.layout,
            n_layer,
            cuts: self.cuts,
            max_rows_per_call: context.n_batch() as usize,
            max_rows_per_attention_probe: context.n_ubatch() as usize,
            causal_images: !self.prompt.non_causal,
            embeddings: Some(Embeddings {
                n_embd: self.model.native().n_embd_inp(),
                vision: self.prompt.embeddings_of(self.layout),
                text: text.as_deref(),
            }),
            shared,
        };
        let decoder = Decoder {
            context,
            store: self.store,
            model: self.model,
            n_ctx: self.n_ctx,
        };
        let n_rows = self.layout.n_rows;
        let mut engine = StagedTurn::new(decoder, sequence, n_rows, self.n_spare, before_call, on_probe);
        prefill::prefill(&mut engine, &params, policy)
    }

    /// The text rows as the token embedding has them: `[text rows][n_embd]`.
    fn text_embeddings(&self) -> Result<Vec<f32>, ffi::Error> {
        let tokens = &self.prompt.token[..self.layout.n_rows];
        let text: Vec<i32> = tokens.iter().copied().filter(|token| *token != -1).collect();
        self.model.native().token_embd(&text)
    }
}

/// The start of the picture that a row is inside of, or the row itself.
fn start_of_picture(layout: &PromptLayout, row: usize) -> usize {
    let inside = layout
        .vision
        .iter()
        .find(|span| span.start < row && row < span.end);
    inside.map_or(row, |span| span.start)
}

/// What a staged prefill came to; `None` if it was stopped.
pub(crate) fn unless_stopped(
    result: Result<PrefillTrace, PrefillError<ffi::Error>>,
) -> Result<Option<PrefillTrace>, Error> {
    match result {
        Ok(trace) => Ok(Some(trace)),
        Err(PrefillError::Cancelled) => Ok(None),
        Err(PrefillError::Engine { source, .. }) if source.status == Status::Aborted => Ok(None),
        Err(PrefillError::Engine { layers, source }) => {
            let message = format!(
                "layers {} to {}: {source}",
                layers.start,
                layers.end.saturating_sub(1)
            );
            Err(failed("the prompt")(ffi::Error { message, ..source }))
        }
        Err(error) => Err(Error::Compute {
            what: "the prompt",
            reason: error.to_string(),
        }),
    }
}
