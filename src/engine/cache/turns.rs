//! Reading a prompt turn by turn.
//!
//! A turn is judged by its own last row: its pictures and those of earlier turns are read up to the layer where the policy
//! drops them for it. Its text stays as it was computed. So a conversation that is read afresh, from text, gives what it
//! gave when it came turn by turn.

use std::borrow::Cow;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::keys::{PolicyKey, row_keys};
use super::staged::StagedTurn;
use super::store::{Kept, PrefixStore, RowKey};
use super::{BeforeCall, Decoder, OnRead, ReadSoFar, Shared, dense, failed, with_room};
use crate::engine::Model;
use crate::engine::error::Error;
use crate::engine::prefill::{self, LayerRanges, PrefillError, PrefillParams};
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
    /// `None`: the memory is llama.cpp's own.
    pub(crate) cuts: Option<&'a [usize]>,
    pub(crate) probe_stride: usize,
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

impl<'a> Reader<'a> {
    /// Reads the prompt. There is none if it was stopped.
    pub(crate) fn read(
        mut self,
        context: &mut ffi::Context,
        on_read: OnRead<'_>,
    ) -> Result<Option<Read>, Error> {
        let key = self.policy.map_or(PolicyKey::OFF, PolicyKey::of);
        let mut position = self.find(context, key)?;
        let n_reused = position.n_rows;
        let frontier = self.frontier(context, &position)?;
        let n_turns = self.prompt.turns.len();
        let mut before_call =
            |done: f32, decoder: &mut Decoder<'_>| on_read(ReadSoFar { done, n_reused }, decoder);
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
            if self
                .read_answer(context, &turn, answer, &mut before_call)?
                .is_break()
            {
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
        let way = self.way(context, position, &layout)?;
        if n_known < span.vision_end {
            // The sequence of the pictures is this turn's alone until it is kept.
            if Arc::strong_count(&position.sequence) > 1 {
                let fork = with_room(context, self.store, |context| context.fork(&position.sequence));
                position.sequence = Arc::new(fork.map_err(&compute)?);
            }
            let rows = self.prompt.rows(n_known..span.vision_end);
            context.add(&position.sequence, &rows).map_err(&compute)?;
            position.n_rows = span.vision_end;
            if way == Way::Dense
                && self
                    .run_dense(context, &position.sequence, n_known..span.vision_end, before_call)?
                    .is_break()
            {
                return Ok(None);
            }
        }
        let rows = TurnRows {
            n_known,
            n_shared: position.n_rows,
            n_earlier: if position.n_rows > span.vision_end {
                position.n_rows
            } else {
                span.begin
            },
        };
        let sequence = &position.sequence;
        let read = match way {
            Way::Staged => self.read_staged(context, sequence, &layout, rows, before_call)?,
            Way::FewerRows => self.read_fewer_rows(context, sequence, &layout, rows, before_call)?,
            Way::Dense => self.read_dense(context, sequence, &layout, rows, before_call)?,
        };
        let Some((branch, trace)) = read else {
            return Ok(None);
        };
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

    /// The layers are run in ranges for a policy with something to prune, or where pictures have been through some layers
    /// only.
    fn way(
        &self,
        context: &mut ffi::Context,
        position: &Position,
        layout: &PromptLayout,
    ) -> Result<Way, Error> {
        let is_pruned = self.policy.is_some() && layout.nothing_to_prune().is_none();
        Ok(match self.cuts {
            None if is_pruned => Way::FewerRows,
            None => Way::Dense,
            Some(_) if is_pruned || self.frontier(context, position)?.is_some() => Way::Staged,
            Some(_) => Way::Dense,
        })
    }

    /// A branch with the rows of a turn that are not shared, none of which has run.
    fn branch(
        &mut self,
        context: &mut ffi::Context,
        sequence: &ffi::Sequence,
        rows: Range<usize>,
    ) -> Result<ffi::Sequence, Error> {
        let branch = with_room(context, self.store, |context| context.branch(sequence));
        let branch = branch.map_err(failed("the prompt"))?;
        if !rows.is_empty() {
            let added = context.add(&branch, &self.prompt.rows(rows));
            added.map_err(failed("the prompt"))?;
        }
        Ok(branch)
    }

    fn read_dense(
        &mut self,
        context: &mut ffi::Context,
        sequence: &ffi::Sequence,
        layout: &PromptLayout,
        rows: TurnRows,
        before_call: BeforeCall<'_>,
    ) -> Result<Option<(ffi::Sequence, PrefillTrace)>, Error> {
        let own = rows.n_shared..layout.n_rows;
        let branch = self.branch(context, sequence, own.clone())?;
        if self.run_dense(context, &branch, own, before_call)?.is_break() {
            return Ok(None);
        }
        let reason = layout.nothing_to_prune().filter(|_| self.policy.is_some());
        let mut trace = PrefillTrace::dense(layout, self.model.n_layer(), reason.unwrap_or(Skipped::Off));
        for layer in &mut trace.layers {
            layer.resident = std::iter::once(0..rows.n_known)
                .filter(|rows| !rows.is_empty())
                .collect();
        }
        Ok(Some((branch, trace)))
    }

    fn run_dense(
        &mut self,
        context: &mut ffi::Context,
        sequence: &ffi::Sequence,
        rows: Range<usize>,
        before_call: BeforeCall<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let n_rows = self.prompt.layout.n_rows;
        let n_spare = self.n_spare + n_rows - rows.end;
        let mut before_call =
            |row: i32, decoder: &mut Decoder<'_>| before_call(row as f32 / n_rows as f32, decoder);
        let of_prompt: Vec<i32> = rows.map(|row| row as i32).collect();
        let prompt = self.prompt;
        let mut decoder = self.decoder(context);
        match dense::run(
            &mut decoder,
            sequence,
            prompt,
            &of_prompt,
            n_spare,
            &mut before_call,
        ) {
            Ok(flow) => Ok(flow),
            Err(error) if error.status == Status::Aborted => Ok(ControlFlow::Break(())),
            Err(error) => Err(failed("the prompt")(error)),
        }
    }

    /// Runs the rows that the policy lets into layer 0.
    fn read_fewer_rows(
        &mut self,
        context: &mut ffi::Context,
        sequence: &ffi::Sequence,
        layout: &PromptLayout,
        rows: TurnRows,
        before_call: BeforeCall<'_>,
    ) -> Result<Option<(ffi::Sequence, PrefillTrace)>, Error> {
        let due = context
            .due(sequence, rows.n_shared)
            .map_err(failed("the prompt"))?;
        let mut policy = self.stage_policy(layout)?;
        let input = self.input(context, layout);
        let (prompt, n_spare) = (self.prompt, self.n_spare_after(layout));
        let mut engine = dense::WholeModelTurn {
            decoder: self.decoder(context),
            prompt,
            shared: sequence,
            n_shared: rows.n_shared,
            end: layout.n_rows,
            n_spare,
            branch: None,
            before_call,
        };
        let shared = rows.shared(&due);
        let trace = unless_stopped(input.run(&mut engine, shared, policy.as_mut()))?;
        Ok(engine.branch.zip(trace))
    }

    fn read_staged(
        &mut self,
        context: &mut ffi::Context,
        sequence: &ffi::Sequence,
        layout: &PromptLayout,
        rows: TurnRows,
        before_call: BeforeCall<'_>,
    ) -> Result<Option<(ffi::Sequence, PrefillTrace)>, Error> {
        let branch = self.branch(context, sequence, rows.n_shared..layout.n_rows)?;
        let due = context
            .due(&branch, layout.n_rows)
            .map_err(failed("the prompt"))?;
        let mut policy = self.stage_policy(layout)?;
        let input = self.input(context, layout);
        let mut nothing = |_: &mut ffi::Context, _: &ffi::Sequence, _| Ok(());
        let n_spare = self.n_spare_after(layout);
        let decoder = self.decoder(context);
        let mut engine = StagedTurn::new(
            decoder,
            &branch,
            layout.n_rows,
            n_spare,
            before_call,
            &mut nothing,
        );
        let shared = rows.shared(&due);
        let trace = unless_stopped(input.run(&mut engine, shared, policy.as_mut()))?;
        Ok(trace.map(|trace| (branch, trace)))
    }

    fn decoder<'b>(&'b mut self, context: &'b mut ffi::Context) -> Decoder<'b> {
        Decoder {
            context,
            store: self.store,
            model: self.model,
            n_ctx: self.n_ctx,
        }
    }

    /// Rows that will be needed after those of a layout.
    fn n_spare_after(&self, layout: &PromptLayout) -> usize {
        self.n_spare + self.prompt.layout.n_rows - layout.n_rows
    }

    fn stage_policy(&self, layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, Error> {
        Ok(match self.policy {
            Some(policy) => policy::begin(policy, self.model.n_layer(), layout)?,
            None => Box::new(policy::off::Off::because(Skipped::Off)),
        })
    }

    fn input<'b>(&self, context: &ffi::Context, layout: &'b PromptLayout) -> Input<'b>
    where
        'a: 'b,
    {
        Input::new(
            self.model,
            self.cuts.unwrap_or_default(),
            self.prompt,
            layout,
            context,
        )
        .with_probe_stride(self.probe_stride)
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

/// How a turn is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As stock llama.cpp does it.
    Dense,
    /// The same, without the rows that a policy drops before layer 0.
    FewerRows,
    /// In ranges of layers.
    Staged,
}

/// The rows of a turn, and whose they are.
#[derive(Debug, Clone, Copy)]
struct TurnRows {
    /// Rows that were there before.
    n_known: usize,
    /// Rows of the parent.
    n_shared: usize,
    /// Rows of earlier turns.
    n_earlier: usize,
}

impl TurnRows {
    /// `due`: the layer that each row, or at least each row of the parent, is due at.
    fn shared(self, due: &[usize]) -> prefill::Shared<'_> {
        prefill::Shared {
            n_rows: self.n_shared,
            n_earlier: self.n_earlier,
            due: &due[..self.n_known],
        }
    }
}

/// What a prefill is given, whatever runs it.
pub(crate) struct Input<'a> {
    pub(crate) model: &'a Model,
    pub(crate) cuts: &'a [usize],
    pub(crate) prompt: &'a EncodedPrompt,
    pub(crate) layout: &'a PromptLayout,
    n_batch: usize,
    n_ubatch: usize,
    probe_stride: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(
        model: &'a Model,
        cuts: &'a [usize],
        prompt: &'a EncodedPrompt,
        layout: &'a PromptLayout,
        context: &ffi::Context,
    ) -> Self {
        Self {
            model,
            cuts,
            prompt,
            layout,
            n_batch: context.n_batch() as usize,
            n_ubatch: context.n_ubatch() as usize,
            probe_stride: 1,
        }
    }

    fn with_probe_stride(self, probe_stride: usize) -> Self {
        Self { probe_stride, ..self }
    }

    /// Runs the rows of a turn through all layers as a policy says.
    pub(crate) fn run(
        &self,
        engine: &mut impl LayerRanges<Error = ffi::Error>,
        shared: prefill::Shared<'_>,
        policy: &mut dyn StagePolicy,
    ) -> Result<PrefillTrace, PrefillError<ffi::Error>> {
        let n_layer = self.model.n_layer();
        let text = match policy.needs_embeddings() {
            Needs::Nothing | Needs::Vision => None,
            _ => Some(self.text_embeddings().map_err(|source| PrefillError::Engine {
                layers: 0..n_layer,
                source,
            })?),
        };
        let (n_embd, vision) = self.vision_embeddings();
        let params = PrefillParams {
            layout: self.layout,
            n_layer,
            cuts: self.cuts,
            max_rows_per_call: self.n_batch,
            max_rows_per_attention_probe: self.n_ubatch,
            probe_stride: self.probe_stride,
            causal_images: !self.prompt.non_causal,
            embeddings: Some(Embeddings {
                n_embd,
                vision: &vision,
                text: text.as_deref(),
            }),
            shared,
        };
        prefill::prefill(engine, &params, policy)
    }

    /// The width of the vision rows that enter layer 0, and these rows: with DeepStack what is added later is cut off.
    fn vision_embeddings(&self) -> (usize, Cow<'_, [f32]>) {
        let (n_embd, n_embd_inp) = (self.model.native().n_embd(), self.model.native().n_embd_inp());
        let rows = self.prompt.embeddings_of(self.layout);
        if n_embd == n_embd_inp {
            return (n_embd, Cow::Borrowed(rows));
        }
        let first = rows.chunks_exact(n_embd_inp).flat_map(|row| &row[..n_embd]);
        (n_embd, Cow::Owned(first.copied().collect()))
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
