//! Any calls in any order, as bytes say: each happens or is refused and leaves everything as it was, and what is left in the
//! end is a context that computes as a new one does.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use super::*;

/// Rows that a sequence may have, and sequences that there may be: few, so that both run out.
const N_CTX: u32 = 48;
const N_SEQ_MAX: u32 = 4;

/// Calls made in a row at most.
const N_CALLS: usize = 200;

/// How far logits differ that were computed in other batches.
const TOLERANCE: f32 = 2e-2;

/// What is left of the bytes; zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> usize {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                usize::from(byte)
            }
            None => 0,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        self.byte() % n.max(1)
    }

    /// Some of the numbers below `n`, mostly ascending.
    fn rows(&mut self, n: usize) -> Vec<i32> {
        let (every, from) = (1 + self.below(4), self.below(n));
        let mut rows: Vec<i32> = (from..n).step_by(every).map(|row| row as i32).collect();
        if self.byte() == 255 {
            rows.reverse();
        }
        rows
    }
}

struct Live {
    sequence: Sequence,
    n_rows: usize,
    /// It reads its first rows in another one.
    is_branch: bool,
}

/// What no refused call may change: where each row is due, and the cells in use.
type Standing = (Vec<Vec<usize>>, Vec<u32>);

struct Driver {
    context: Context,
    model: Arc<Model>,
    live: Vec<Live>,
    /// Whether ranges of layers can be run.
    is_staged: bool,
}

/// Makes the calls that `data` stands for.
pub(crate) fn drive(data: &[u8]) {
    let mut input = Input(data);
    let model = model();
    let groups = groups(&model, input.byte());
    let setup = SETUPS[input.below(SETUPS.len())];
    let params = ContextParams {
        n_ctx: N_CTX,
        n_seq_max: N_SEQ_MAX,
        ..context_params(setup)
    };
    let mut driver = Driver {
        context: Context::new(&model, &params, &groups).expect("a context"),
        model: Arc::clone(&model),
        live: Vec::new(),
        is_staged: !groups.is_empty(),
    };
    let expected = driver.answer().expect("an empty context answers");
    for _ in 0..N_CALLS {
        if input.0.is_empty() {
            break;
        }
        let before = driver.standing();
        if driver.call(&mut input).is_err() {
            assert_eq!(
                driver.standing(),
                before,
                "a call that was refused changed something"
            );
        }
    }
    driver.live.clear();
    let (_, cells) = driver.standing();
    assert!(
        cells.iter().all(|&n| n == 0),
        "cells that are nobody's: {cells:?}"
    );
    assert_eq!(
        driver.context.bytes_beside().unwrap(),
        0,
        "hidden rows that are nobody's"
    );
    let answer = driver.answer().expect("an emptied context answers");
    let difference = max_difference(&answer, &expected);
    assert!(difference < TOLERANCE, "logits are off by {difference}");
}

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| load(Arch::Llama).model))
}

/// llama.cpp's own memory, a cut before every layer, or two cuts.
fn groups(model: &Model, choice: usize) -> Vec<KvGroup> {
    match choice % 4 {
        0 => Vec::new(),
        1 => [0, 2, 5]
            .map(|il_begin| KvGroup { il_begin, n_cells: 0 })
            .to_vec(),
        _ => every_layer(model),
    }
}

impl Driver {
    fn standing(&mut self) -> Standing {
        let Self { context, live, .. } = self;
        let due = live.iter().map(|live| {
            context
                .due(&live.sequence, live.n_rows)
                .expect("as many rows as were added")
        });
        let due = due.collect();
        let n_cells = |il| self.context.kv_usage(il).expect("a layer of the model").n_cells;
        (due, (0..self.model.n_layer()).map(n_cells).collect())
    }

    /// The logits after a prompt in a sequence of its own.
    fn answer(&mut self) -> Result<Vec<f32>, Error> {
        let sequence = self.context.new_sequence()?;
        let token: Vec<i32> = (0..20).map(|i| 3 + i).collect();
        let pos: Vec<i32> = (0..20).collect();
        let rows = Rows {
            token: &token,
            embd: &[],
            pos: &pos,
        };
        self.context.add(&sequence, &rows)?;
        let all: Vec<i32> = (0..20).collect();
        self.context
            .run(&sequence, &range(0..self.model.n_layer(), &all))?;
        let logits = self.context.logits(None).expect("logits of the last row");
        assert!(logits.iter().all(|logit| logit.is_finite()));
        Ok(logits.to_vec())
    }

    fn call(&mut self, input: &mut Input<'_>) -> Result<(), Error> {
        let what = input.below(16);
        if what == 0 || self.live.is_empty() {
            let sequence = self.context.new_sequence()?;
            self.live.push(Live {
                sequence,
                n_rows: 0,
                is_branch: false,
            });
            return Ok(());
        }
        let i = input.below(self.live.len());
        match what {
            1 => self.second(i, true),
            2 => self.second(i, false),
            3 => {
                self.live.remove(i);
                Ok(())
            }
            4 | 5 => self.add(i, input),
            6 | 7 => self.run_what_is_due(i, input),
            8 => self.run_anything(i, input),
            9 => self.stopped(i, input),
            10 => {
                let (il, rows) = (
                    input.below(self.model.n_layer() + 2),
                    input.rows(self.live[i].n_rows),
                );
                self.context.leave(&self.live[i].sequence, il, &rows)
            }
            11 => {
                let (il, rows) = (
                    input.below(self.model.n_layer() + 2),
                    input.rows(self.live[i].n_rows),
                );
                self.context.copy(&self.live[i].sequence, il, &rows)
            }
            12 => self.settle(i, input),
            13 => self.truncate(i, input),
            14 => self.evict(i, input),
            _ => self.decode(i, input),
        }
    }

    /// A branch or a fork.
    fn second(&mut self, i: usize, is_branch: bool) -> Result<(), Error> {
        let Live { sequence, n_rows, .. } = &self.live[i];
        let second = if is_branch {
            self.context.branch(sequence)
        } else {
            self.context.fork(sequence)
        };
        let n_rows = *n_rows;
        self.live.push(Live {
            sequence: second?,
            n_rows,
            is_branch,
        });
        Ok(())
    }

    /// Tokens or embeddings, behind what is there or where bytes say.
    fn add(&mut self, i: usize, input: &mut Input<'_>) -> Result<(), Error> {
        let n_added = 1 + input.below(12);
        let first = match input.byte() {
            255 => -1,
            254 => i32::MAX - 3,
            _ => self.live[i].n_rows as i32,
        };
        let token: Vec<i32> = (0..n_added)
            .map(|_| match input.byte() {
                byte @ 0..128 => byte as i32 % 40,
                128..252 => -1,
                byte => (byte as i32 - 250) * 1_000_000,
            })
            .collect();
        let n_embd_rows = token.iter().filter(|&&token| token == -1).count();
        let embd: Vec<f32> = (0..n_embd_rows * self.model.n_embd_inp())
            .map(|i| (i % 7) as f32 / 7.0 - 0.4)
            .collect();
        let pos: Vec<i32> = (0..n_added as i32).map(|i| first.wrapping_add(i)).collect();
        let rows = Rows {
            token: &token,
            embd: &embd,
            pos: &pos,
        };
        self.context.add(&self.live[i].sequence, &rows)?;
        self.live[i].n_rows += n_added;
        Ok(())
    }

    /// The rows that are furthest behind, to some layer.
    fn run_what_is_due(&mut self, i: usize, input: &mut Input<'_>) -> Result<(), Error> {
        let n_layer = self.model.n_layer();
        let Live { sequence, n_rows, .. } = &self.live[i];
        let due = self.context.due(sequence, *n_rows)?;
        let Some(&il_begin) = due.iter().filter(|&&il| il < n_layer).min() else {
            return Ok(());
        };
        let rows: Vec<i32> = (0..*n_rows as i32)
            .filter(|&row| due[row as usize] == il_begin)
            .collect();
        let il_end = if self.is_staged {
            il_begin + 1 + input.below(n_layer - il_begin)
        } else {
            n_layer
        };
        let probe = match input.below(4) {
            1 => Some(Probe::Contribution { il: il_begin }),
            2 => Some(Probe::Attention {
                il: il_end - 1,
                queries: &rows[rows.len() - 1..],
            }),
            _ => None,
        };
        self.context.run(
            sequence,
            &Range {
                probe,
                ..range(il_begin..il_end, &rows)
            },
        )?;
        self.read(i, il_begin)
    }

    fn run_anything(&mut self, i: usize, input: &mut Input<'_>) -> Result<(), Error> {
        let n_layer = self.model.n_layer();
        let Live { sequence, n_rows, .. } = &self.live[i];
        let (rows, hidden) = (input.rows(*n_rows), input.rows(n_rows + 1));
        let layers = input.below(n_layer + 1)..input.below(n_layer + 2);
        let affected: Vec<u8> = rows.iter().map(|row| (row % 2) as u8).collect();
        let anything = Range {
            mode: [
                AttentionMode::Plain,
                AttentionMode::Zero,
                AttentionMode::Merge,
                AttentionMode::Mask,
            ][input.below(4)],
            hidden: &hidden,
            affected: (input.below(2) == 1).then_some(&affected),
            probe: (input.below(3) == 1).then_some(Probe::Contribution {
                il: input.below(n_layer + 1),
            }),
            both_ways_until: (input.below(4) == 1).then_some(input.byte() as i32 - 2),
            n_spare: input.byte(),
            ..range(layers, &rows)
        };
        self.context.run(sequence, &anything)
    }

    /// Everything that can be read of a sequence, whether or not there is something.
    fn read(&mut self, i: usize, il: usize) -> Result<(), Error> {
        let Live { sequence, n_rows, .. } = &self.live[i];
        let rows: Vec<i32> = (0..*n_rows as i32).collect();
        let _ = self.context.contributions(sequence, il, n_rows + 1);
        let _ = self.context.attention(sequence, il, *n_rows);
        let _ = self.context.hidden(sequence, &rows);
        #[cfg(feature = "lab")]
        {
            let _ = self.context.lens_hidden(sequence);
            let _ = self.context.lens_attention(sequence, il);
            let _ = self.context.value_norms(sequence, il, *n_rows);
        }
        let n_cells = self.context.n_cells_of(sequence, il)?;
        assert!(n_cells as usize <= *n_rows, "{n_cells} cells for {n_rows} rows");
        let _ = self.context.logits(Some(0));
        Ok(())
    }

    /// A range that is stopped before it has begun.
    fn stopped(&mut self, i: usize, input: &mut Input<'_>) -> Result<(), Error> {
        let stop = AtomicBool::new(true);
        let Self {
            context, live, model, ..
        } = self;
        let Live { sequence, n_rows, .. } = &live[i];
        let due = context.due(sequence, *n_rows)?;
        let il_begin = input.below(model.n_layer());
        let rows: Vec<i32> = (0..*n_rows as i32)
            .filter(|&row| due[row as usize] == il_begin)
            .collect();
        context.watching(&stop, |context| {
            context.run(sequence, &range(il_begin..model.n_layer(), &rows))
        })
    }

    fn settle(&mut self, i: usize, input: &mut Input<'_>) -> Result<(), Error> {
        let rows = if input.below(2) == 0 {
            Vec::new()
        } else {
            input.rows(self.live[i].n_rows)
        };
        self.context.settle(&self.live[i].sequence, &rows)?;
        assert!(self.live[i].is_branch, "only branches are settled");
        self.live[i].is_branch = false;
        Ok(())
    }

    fn truncate(&mut self, i: usize, input: &mut Input<'_>) -> Result<(), Error> {
        let n_rows = input.below(self.live[i].n_rows + 2);
        self.context.truncate(&self.live[i].sequence, n_rows)?;
        self.live[i].n_rows = n_rows;
        Ok(())
    }

    fn evict(&mut self, i: usize, input: &mut Input<'_>) -> Result<(), Error> {
        let n_layer = self.model.n_layer();
        let layers = input.below(n_layer + 1)..input.below(n_layer + 2);
        let rows = input.rows(self.live[i].n_rows);
        self.context.evict(&self.live[i].sequence, layers, &rows)
    }

    /// A token for one sequence, or for all.
    fn decode(&mut self, i: usize, input: &mut Input<'_>) -> Result<(), Error> {
        let all = input.below(2) == 1;
        let token = input.byte() as i32 - 3;
        let chosen: Vec<usize> = (0..self.live.len()).filter(|&n| all || n == i).collect();
        let tokens: Vec<Token<'_>> = chosen
            .iter()
            .map(|&n| Token {
                sequence: &self.live[n].sequence,
                token,
                pos: self.live[n].n_rows as i32,
            })
            .collect();
        self.context.decode(&tokens, 0)?;
        for n in chosen {
            self.live[n].n_rows += 1;
        }
        Ok(())
    }
}

/// `VISIPRUNER_CALLS` sets how many lists of calls.
#[test]
fn any_calls_in_any_order() {
    let n: u64 = std::env::var("VISIPRUNER_CALLS").map_or(150, |n| n.parse().expect("a number"));
    for seed in 0..n {
        let mut rng = Rng::new(seed);
        let data: Vec<u8> = (0..30 + rng.below(800)).map(|_| rng.below(256) as u8).collect();
        eprintln!("calls of seed {seed}"); // the last one is the one that fails
        drive(&data);
    }
}
