//! Sequences that branch off, fork, are rolled back and decode together: each gives what it gives alone, whatever else the
//! cache holds.

use super::*;

test_device!(
    questions_of_one_prefix_equal_questions_by_themselves,
    a_question_leaves_the_prefix_as_it_was,
    questions_that_take_turns_equal_questions_one_after_the_other,
    sequences_that_decode_together_equal_each_alone,
    a_settled_question_has_the_whole_picture_again,
    a_rolled_back_sequence_goes_on_as_if_nothing_had_been,
    a_probe_reads_rows_whose_cells_held_others_before,
);

/// Rows before a question: text and the picture.
const N_PREFIX: usize = N_BEFORE + N_VISION;

/// The rows of the prefix, and a question with its own text.
fn split(model: &Model, question: u64) -> (RandomRows, RandomRows) {
    let RandomRows {
        mut token,
        embd,
        mut pos,
    } = prompt(model);
    let (own_token, own_pos) = (
        token.split_off(N_PREFIX),
        pos.split_off(N_PREFIX * model.n_pos_per_embd()),
    );
    let mut rng = Rng::new(100 + question);
    let own_token = own_token
        .iter()
        .map(|_| 3 + rng.below(model.n_vocab() - 3) as i32)
        .collect();
    let own = RandomRows {
        token: own_token,
        embd: Vec::new(),
        pos: own_pos,
    };
    (RandomRows { token, embd, pos }, own)
}

/// How far logits of about 2 differ that were computed in other batches, at most: Gemma's, by 5e-4.
const ROUNDING: f32 = 1e-3;

fn own_rows() -> Vec<i32> {
    (N_PREFIX as i32..N_ROWS as i32).collect()
}

fn text_before() -> Vec<i32> {
    (0..N_BEFORE as i32).collect()
}

/// Some rows of the picture.
fn kept(question: u64) -> Vec<i32> {
    vision_rows()
        .into_iter()
        .filter(|row| (*row as u64 + question).is_multiple_of(7))
        .collect()
}

fn joined(lists: &[&[i32]]) -> Vec<i32> {
    let mut rows = lists.concat();
    rows.sort_unstable();
    rows
}

impl Engine {
    fn try_run(&mut self, sequence: &Sequence, layers: Layers<usize>, rows: &[i32]) {
        let both = range(layers.clone(), rows);
        self.context
            .run(sequence, &both)
            .unwrap_or_else(|error| panic!("layers {layers:?}: {error}"));
    }

    /// The parent of all questions.
    fn prefix(&mut self) -> Sequence {
        let prefix = self.context.new_sequence().unwrap();
        self.context
            .add(&prefix, &split(&self.model, 0).0.as_rows())
            .unwrap();
        prefix
    }

    /// Asks a question of a prefix, whose picture is dropped after layer `fusion` but for some rows.
    fn ask(&mut self, prefix: &Sequence, question: u64, fusion: usize) -> (Sequence, Vec<f32>) {
        let branch = self.context.branch(prefix).unwrap();
        self.context
            .add(&branch, &split(&self.model, question).1.as_rows())
            .unwrap();
        let n_layer = self.n_layer();
        let mut il = 0;
        while il <= fusion {
            // what the prefix has not run yet comes along, to where all rows are due together again
            let due = self.context.due(&branch, N_ROWS).unwrap();
            let rows: Vec<i32> = all_rows()
                .into_iter()
                .filter(|&row| due[row as usize] == il)
                .collect();
            let end = due
                .iter()
                .copied()
                .filter(|&due| due > il)
                .chain([fusion + 1])
                .min()
                .unwrap();
            self.try_run(&branch, il..end, &rows);
            il = end;
        }
        let kept = kept(question);
        self.context.leave(&branch, il, &vision_rows()).unwrap();
        self.context.copy(&branch, il, &kept).unwrap();
        let due = self.context.due(&branch, N_ROWS).unwrap();
        if kept.iter().any(|&row| due[row as usize] != il) {
            let half = il.div_ceil(2);
            for layers in [0..half, half..il] {
                if !layers.is_empty() {
                    self.try_run(&branch, layers, &kept);
                }
            }
        }
        let due = self.context.due(&branch, N_ROWS).unwrap();
        let before = if due[0] == il { text_before() } else { Vec::new() };
        self.try_run(&branch, il..n_layer, &joined(&[&before, &kept, &own_rows()]));
        let logits = self.logits();
        (branch, logits)
    }

    /// The same in a sequence of its own.
    fn ask_alone(&mut self, question: u64, fusion: usize) -> (Sequence, Vec<f32>) {
        let sequence = self.context.new_sequence().unwrap();
        let (prefix, own) = split(&self.model, question);
        self.context.add(&sequence, &prefix.as_rows()).unwrap();
        self.context.add(&sequence, &own.as_rows()).unwrap();
        let n_layer = self.n_layer();
        self.try_run(&sequence, 0..fusion + 1, &all_rows());
        let rest = joined(&[&text_before(), &kept(question), &own_rows()]);
        self.try_run(&sequence, fusion + 1..n_layer, &rest);
        let logits = self.logits();
        (sequence, logits)
    }

    fn decode_on(&mut self, sequences: &[(&Sequence, i32, i32)]) -> Vec<Vec<f32>> {
        let tokens: Vec<Token> = sequences
            .iter()
            .map(|&(sequence, token, pos)| Token { sequence, token, pos })
            .collect();
        self.context.decode(&tokens, 0).unwrap();
        (0..tokens.len())
            .map(|i| self.context.logits(Some(i)).unwrap().to_vec())
            .collect()
    }
}

/// The position after the prompt.
fn next_pos(model: &Model) -> i32 {
    let n_positions = if model.n_pos_per_embd() == 1 {
        N_VISION
    } else {
        GRID
    };
    (N_BEFORE + n_positions + N_AFTER) as i32
}

fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    let difference = max_difference(a, b);
    assert!(difference < tolerance, "{what}: {difference}");
}

fn questions_of_one_prefix_equal_questions_by_themselves(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        for (setup, tolerance) in [(EXACT, ROUNDING), (SETUPS[1], 2e-2), (SETUPS[2], 2e-2)] {
            let tolerance = device.logits(tolerance);
            let mut shared = engine(&model, setup, &every_layer(&model));
            let mut alone = engine(&model, setup, &every_layer(&model));
            let prefix = shared.prefix();
            // later than, earlier than, and where the picture has come to
            for (question, fusion) in [(1, 3), (2, 5), (3, 2), (4, 5), (5, 0), (6, 6)] {
                let what = format!("{arch:?} {setup:?} question {question} after layer {fusion}");
                let (branch, logits) = shared.ask(&prefix, question, fusion);
                let (own, expected) = alone.ask_alone(question, fusion);
                assert_close(&logits, &expected, tolerance, &what);
                for il in 0..model.n_layer() {
                    assert_eq!(
                        shared.context.n_cells_of(&branch, il).unwrap(),
                        alone.context.n_cells_of(&own, il).unwrap(),
                        "{what} layer {il}"
                    );
                }
                let pos = next_pos(&model);
                let next = shared.decode_on(&[(&branch, 9, pos)]);
                let expected = alone.decode_on(&[(&own, 9, pos)]);
                assert_close(&next[0], &expected[0], tolerance, &format!("{what}, decoded"));
            }
        }
    }
}

fn a_question_leaves_the_prefix_as_it_was(device: Device) {
    let model = load_on(device, Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    let prefix = engine.prefix();
    let (branch, first) = engine.ask(&prefix, 1, 3);
    drop(branch);
    let due = engine.context.due(&prefix, N_PREFIX).unwrap();
    assert!(due[..N_BEFORE].iter().all(|&il| il == model.n_layer()));
    assert!(due[N_BEFORE..].iter().all(|&il| il == 4));
    let used = |engine: &mut Engine| -> Vec<u32> {
        (0..engine.n_layer())
            .map(|il| engine.context.kv_usage(il).unwrap().n_cells)
            .collect()
    };
    let held = used(&mut engine);
    assert_eq!(held, [41, 41, 41, 41, 5, 5, 5, 5]);
    assert_eq!(
        engine.context.bytes_beside().unwrap(),
        N_VISION * (model.n_embd() + model.n_embd_inp()) * size_of::<f32>()
    );
    let (again, second) = engine.ask(&prefix, 1, 3);
    assert_close(
        &first,
        &second,
        device.logits(ROUNDING),
        "the same question again",
    );
    drop(again);
    assert_eq!(used(&mut engine), held, "nothing of a question stays");
}

fn questions_that_take_turns_equal_questions_one_after_the_other(device: Device) {
    for arch in [Arch::Llama, Arch::Qwen2Vl, Arch::Gemma3] {
        let model = load_on(device, arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let n_layer = engine.n_layer();
        let prefix = engine.prefix();
        let branches = [1, 2].map(|question| {
            let branch = engine.context.branch(&prefix).unwrap();
            let own = split(&model, question).1;
            engine.context.add(&branch, &own.as_rows()).unwrap();
            branch
        });
        // one layer of the one, one layer of the other, which finds the picture there already
        let mut logits = Vec::new();
        for il in 0..n_layer {
            for branch in &branches {
                let due = engine.context.due(branch, N_ROWS).unwrap();
                let rows: Vec<i32> = all_rows()
                    .into_iter()
                    .filter(|&row| due[row as usize] == il)
                    .collect();
                engine.try_run(branch, il..il + 1, &rows);
                if il + 1 == n_layer {
                    logits.push(engine.logits());
                }
            }
        }
        for (question, logits) in [1, 2].into_iter().zip(&logits) {
            let sequence = engine.context.new_sequence().unwrap();
            let (prefix, own) = split(&model, question);
            engine.context.add(&sequence, &prefix.as_rows()).unwrap();
            engine.context.add(&sequence, &own.as_rows()).unwrap();
            engine.try_run(&sequence, 0..n_layer, &all_rows());
            let expected = engine.logits();
            assert_close(
                logits,
                &expected,
                device.logits(ROUNDING),
                &format!("{arch:?} question {question}"),
            );
        }
    }
}

fn sequences_that_decode_together_equal_each_alone(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        for (setup, tolerance) in [(EXACT, ROUNDING), (SETUPS[2], 2e-2)] {
            let tolerance = device.logits(tolerance);
            let mut together = engine(&model, setup, &every_layer(&model));
            let prefix = together.prefix();
            let questions = [(1, 3), (2, 5), (3, 2)];
            let branches = questions.map(|(question, fusion)| together.ask(&prefix, question, fusion).0);
            for step in 0..3 {
                let pos = next_pos(&model) + step;
                let tokens: Vec<_> = branches.iter().map(|branch| (branch, 5 + step, pos)).collect();
                let logits = together.decode_on(&tokens);
                for ((question, fusion), logits) in questions.into_iter().zip(logits) {
                    let mut alone = engine(&model, setup, &every_layer(&model));
                    let (own, _) = alone.ask_alone(question, fusion);
                    let mut expected = Vec::new();
                    for before in 0..=step {
                        let pos = next_pos(&model) + before;
                        expected = alone.decode_on(&[(&own, 5 + before, pos)]);
                    }
                    let what = format!("{arch:?} {setup:?} question {question} step {step}");
                    assert_close(&logits, &expected[0], tolerance, &what);
                }
            }
        }
    }
}

/// A question that was answered goes on as a sequence by itself: its text stays as it was computed, and the picture is
/// there again as far as the prefix has it.
fn a_settled_question_has_the_whole_picture_again(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let n_layer = engine.n_layer();
        let prefix = engine.prefix();
        let (branch, _) = engine.ask(&prefix, 1, 3);
        let pos = next_pos(&model);
        engine.decode_on(&[(&branch, 9, pos)]);
        engine.context.settle(&branch, &[]).unwrap();
        let n_rows = N_ROWS + 1;
        let due = engine.context.due(&branch, n_rows).unwrap();
        for (row, il) in due.into_iter().enumerate() {
            let is_vision = (N_BEFORE..N_PREFIX).contains(&row);
            assert_eq!(il, if is_vision { 4 } else { n_layer }, "{arch:?} row {row}");
        }
        for il in 0..n_layer {
            let n_cells = if il < 4 { n_rows } else { n_rows - N_VISION };
            assert_eq!(engine.context.n_cells_of(&branch, il).unwrap() as usize, n_cells);
        }
        drop(prefix);

        // a second turn, which reads the picture to the end
        let turn = engine.context.branch(&branch).unwrap();
        let first_own = n_rows as i32;
        let pos: Vec<i32> = (0..2)
            .flat_map(|i| match model.n_pos_per_embd() {
                1 => vec![pos + 1 + i],
                _ => vec![pos + 1 + i, pos + 1 + i, pos + 1 + i, 0],
            })
            .collect();
        let rows = Rows {
            token: &[11, 12],
            embd: &[],
            pos: &pos,
        };
        engine.context.add(&turn, &rows).unwrap();
        let own = [first_own, first_own + 1];
        engine.try_run(&turn, 0..4, &own);
        engine.try_run(&turn, 4..n_layer, &joined(&[&vision_rows(), &own]));
        let logits = engine.logits();

        // the same in one sequence: the picture comes back after the answer
        let (sequence, _) = engine.ask_alone(1, 3);
        engine.decode_on(&[(&sequence, 9, next_pos(&model))]);
        engine.context.add(&sequence, &rows).unwrap();
        engine.try_run(&sequence, 0..4, &own);
        let dropped: Vec<i32> = vision_rows()
            .into_iter()
            .filter(|row| !kept(1).contains(row))
            .collect();
        engine
            .context
            .evict(&sequence, 4..n_layer, &vision_rows())
            .unwrap();
        assert!(!dropped.is_empty());
        // its kept rows cannot be run again there, so the picture is compared in a fresh prefix
        let fresh = engine.prefix();
        let turn_alone = engine.context.branch(&fresh).unwrap();
        let (_, question) = split(&model, 1);
        engine.context.add(&turn_alone, &question.as_rows()).unwrap();
        engine.try_run(&turn_alone, 0..4, &all_rows());
        engine.context.leave(&turn_alone, 4, &vision_rows()).unwrap();
        engine.context.copy(&turn_alone, 4, &kept(1)).unwrap();
        let rest = joined(&[&text_before(), &kept(1), &own_rows()]);
        engine.try_run(&turn_alone, 4..n_layer, &rest);
        engine.decode_on(&[(&turn_alone, 9, next_pos(&model))]);
        engine.context.settle(&turn_alone, &[]).unwrap();
        let second = engine.context.branch(&turn_alone).unwrap();
        engine.context.add(&second, &rows).unwrap();
        for il in 0..n_layer {
            let due = engine.context.due(&second, n_rows + 2).unwrap();
            let rows: Vec<i32> = (0..due.len() as i32)
                .filter(|&row| due[row as usize] == il)
                .collect();
            engine.try_run(&second, il..il + 1, &rows);
        }
        assert_close(
            &logits,
            &engine.logits(),
            device.logits(ROUNDING),
            &format!("{arch:?}, second turn"),
        );
    }
}

fn a_rolled_back_sequence_goes_on_as_if_nothing_had_been(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let n_layer = engine.n_layer();
        let (sequence, _) = engine.ask_alone(1, 3);
        let pos = next_pos(&model);
        let expected = engine.decode_on(&[(&sequence, 9, pos)]);
        let fork = engine.context.fork(&sequence).unwrap();
        engine.decode_on(&[(&fork, 20, pos + 1), (&sequence, 30, pos + 1)]);
        engine.context.truncate(&fork, N_ROWS).unwrap();
        // its cells are used by others now
        let other = engine.ask_alone(2, 1).0;
        let again = engine.decode_on(&[(&fork, 9, pos), (&other, 7, pos)]);
        assert_close(
            &expected[0],
            &again[0],
            device.logits(ROUNDING),
            &format!("{arch:?}"),
        );
        for il in 0..n_layer {
            let n_cells = engine.context.n_cells_of(&fork, il).unwrap() as usize;
            assert_eq!(
                n_cells,
                if il < 4 {
                    N_ROWS + 1
                } else {
                    N_ROWS + 1 - N_VISION + kept(1).len()
                }
            );
        }
    }
}

/// Cells that were forgotten and used again belong to the new rows: a probe reads what is there now.
fn a_probe_reads_rows_whose_cells_held_others_before(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let n_layer = engine.n_layer();
        let probe = |engine: &mut Engine, sequence: &Sequence| {
            let all = all_rows();
            let probed = Range {
                probe: Some(Probe::Contribution { il: n_layer - 1 }),
                ..range(0..n_layer, &all)
            };
            engine.context.run(sequence, &probed).unwrap();
            engine
                .context
                .contributions(sequence, n_layer - 1, N_ROWS)
                .unwrap()
        };
        let rows = prompt(&model);
        let fresh = engine.context.new_sequence().unwrap();
        engine.context.add(&fresh, &rows.as_rows()).unwrap();
        let expected = probe(&mut engine, &fresh);

        // holes in the cells of the first layers, where another sequence lay
        let other = engine.ask_alone(3, 2).0;
        engine.context.truncate(&fresh, 20).unwrap();
        let third = engine.ask_alone(4, 5).0;
        drop(other);
        let late = engine.context.new_sequence().unwrap();
        engine.context.add(&late, &rows.as_rows()).unwrap();
        let read = probe(&mut engine, &late);
        assert_close(
            &read.0,
            &expected.0,
            device.logits(ROUNDING),
            &format!("{arch:?}: norms"),
        );
        assert_close(
            &read.1,
            &expected.1,
            device.logits(ROUNDING),
            &format!("{arch:?}: dots"),
        );
        drop(third);
    }
}

#[test]
fn what_makes_no_sense_of_sequences_is_refused() {
    let model = load(Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    let n_layer = engine.n_layer();
    let prefix = engine.prefix();
    let branch = engine.context.branch(&prefix).unwrap();
    let (rows, own) = split(&model, 1);
    let refused = |result: Result<(), Error>, what: &str| {
        let error = result.expect_err(what);
        assert_eq!(error.status, Status::BadArgument, "{what}: {error}");
    };
    refused(engine.context.add(&prefix, &own.as_rows()), "rows for a parent");
    refused(engine.context.truncate(&prefix, 3), "a parent cut short");
    refused(
        engine.context.run(&prefix, &range(0..1, &[0])),
        "a parent that runs",
    );
    refused(engine.context.settle(&prefix, &[]), "a parent settled");
    refused(engine.context.branch(&branch).map(drop), "a branch of a branch");
    refused(engine.context.fork(&branch).map(drop), "a fork of a branch");
    engine.context.add(&branch, &own.as_rows()).unwrap();
    refused(engine.context.settle(&branch, &[]), "rows that have not run");
    refused(
        engine.context.copy(&branch, 3, &[7]),
        "a copy of what has not come there",
    );
    refused(
        engine.context.leave(&branch, n_layer + 1, &[7]),
        "a layer that is not there",
    );
    refused(
        engine.context.leave(&branch, 2, &[N_PREFIX as i32]),
        "a row of its own",
    );
    engine.try_run(&branch, 0..2, &all_rows());
    engine.context.leave(&branch, 2, &vision_rows()).unwrap();
    refused(
        engine.context.run(&branch, &range(2..3, &vision_rows())),
        "rows that were left",
    );
    engine.context.copy(&branch, 2, &[7]).unwrap();
    refused(engine.context.copy(&branch, 2, &[7]), "a second copy");
    let twice = [(&branch, 5, 90), (&branch, 6, 91)];
    let tokens: Vec<Token> = twice
        .iter()
        .map(|&(sequence, token, pos)| Token { sequence, token, pos })
        .collect();
    refused(engine.context.decode(&tokens, 0), "two tokens of one sequence");

    let mut other = super::engine(&model, EXACT, &every_layer(&model));
    refused(
        other.context.add(&prefix, &rows.as_rows()),
        "another context's sequence",
    );

    let all: Vec<Sequence> = std::iter::from_fn(|| other.context.new_sequence().ok()).collect();
    assert_eq!(all.len(), 7, "n_seq_max is 8, and one is there");
    assert_eq!(other.context.new_sequence().unwrap_err().status, Status::NoSlot);
    drop(all);
    assert!(other.context.new_sequence().is_ok());
}
