//! Every architecture of llama.cpp, tried with a small random model: what is accepted is exact, what is refused says why.
//! The lists in docs/models.md are what comes out; `INSTA_UPDATE=always` writes them.

mod metadata;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use metadata::{Kind, N_LAYER, random_model};

use super::*;

/// Names the architecture to the process that tries it: llama.cpp aborts on what it does not expect.
const ARCH: &str = "VISIPRUNER_TEST_ARCH";

/// The names of all architectures, in llama.cpp's order.
fn names() -> Vec<String> {
    let native = option_env!("VISIPRUNER_NATIVE_DIR").unwrap_or(env!("OUT_DIR"));
    let path = Path::new(native).join("llama.cpp/src/llama-arch.cpp");
    let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let names: Vec<String> = source
        .lines()
        .skip_while(|line| !line.contains("LLM_ARCH_NAMES"))
        .take_while(|line| !line.starts_with("};"))
        .filter(|line| line.trim_start().starts_with("{ LLM_ARCH_"))
        .filter_map(|line| Some(line.split('"').nth(1)?.to_owned()))
        .filter(|name| !["clip", "(unknown)"].contains(&name.as_str()))
        .collect();
    assert!(names.len() > 100, "{names:?}");
    names
}

/// What a process says of an architecture, as one line.
const SAYS: &str = "VERDICT ";
const ACCEPTED: &str = "accepted";
const REFUSED: &str = "refused: ";
const NO_MODEL: &str = "no model: ";
const FAILED: &str = "failed: ";

#[derive(Debug, PartialEq)]
enum Verdict {
    Accepted,
    Refused(String),
    Failed(String),
    /// llama.cpp makes none of the metadata that we give.
    NoModel,
}

#[test]
fn every_architecture() {
    let verdicts: Vec<(String, Verdict)> = names()
        .into_iter()
        .map(|name| {
            let verdict = verdict(&name);
            (name, verdict)
        })
        .collect();
    let failed: Vec<_> = verdicts
        .iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Failed(_)))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let accepted = verdicts
        .iter()
        .filter(|(_, verdict)| *verdict == Verdict::Accepted);
    let accepted: Vec<String> = accepted.map(|(name, _)| name.clone()).collect();
    assert_eq!(
        accepted,
        supported_archs(),
        "each that is accepted has been tried"
    );
    check_document(&in_words(&verdicts));
}

/// With and without experts, as far as there are such models.
fn verdict(name: &str) -> Verdict {
    let said = [Kind::Plain, Kind::Experts].map(|kind| said_of(name, kind));
    let find = |prefix| said.iter().find_map(|said| said.strip_prefix(prefix));
    match (find(FAILED), find(REFUSED)) {
        (Some(how), _) => Verdict::Failed(how.to_owned()),
        (None, Some(reason)) => Verdict::Refused(reason.to_owned()),
        (None, None) if said.iter().any(|said| said == ACCEPTED) => Verdict::Accepted,
        (None, None) => Verdict::NoModel,
    }
}

fn said_of(name: &str, kind: Kind) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .env(ARCH, format!("{name} {kind:?}"))
        .args(["--exact", "ffi::tests::archs::one_architecture"])
        .args(["--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let said: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix(SAYS)).collect();
    let complained = String::from_utf8_lossy(&child.stderr);
    match said[..] {
        [said] if child.status.success() => said.to_owned(),
        // Of some architectures llama.cpp asserts, or takes for granted, that the metadata names certain sizes.
        [] if child.status.code().is_none() && !complained.contains("panicked") => {
            format!("{NO_MODEL}the process was killed")
        }
        [] if complained.contains("the context could not be created: ") && is_assert(&complained) => {
            format!("{NO_MODEL}llama.cpp asserts something of it")
        }
        _ => format!("{FAILED}{kind:?}, {said:?}, {complained}"),
    }
}

fn is_assert(said: &str) -> bool {
    said.contains("GGML_ASSERT") || said.contains(": invalid case")
}

#[test]
#[ignore = "tries one architecture, in a process of its own: run by every_architecture"]
fn one_architecture() {
    let asked = std::env::var(ARCH).expect("an architecture");
    let (name, kind) = asked.split_once(' ').expect("an architecture and a kind");
    let kind = if kind == "Plain" {
        Kind::Plain
    } else {
        Kind::Experts
    };
    let model = match random_model(name, kind, false) {
        Ok(model) => on_cpu(model),
        Err(error) => return println!("{SAYS}{NO_MODEL}{}", error.message),
    };
    let refused = model.supports_ranges().err();
    if model.is_decoder_only()
        && !refused
            .as_ref()
            .is_some_and(|error| answers_no_prompt(&error.message))
    {
        check_before_layer_0(&model);
    }
    if let Some(error) = refused {
        return println!("{SAYS}{REFUSED}{}", error.message);
    }
    println!("{SAYS}{ACCEPTED}");
    check(&model, (name, kind));
}

/// Whether a model that is refused for this reason takes no prompt with a picture in llama.cpp's own memory either, or gives
/// no logits.
fn answers_no_prompt(reason: &str) -> bool {
    [
        "encoder",
        "tokens only",
        "each call has outputs",
        "drafts",
        "sound",
    ]
    .iter()
    .any(|part| reason.contains(part))
}

/// Granite Switch looks at the ids of all rows: its graph asserts that no row is a picture's.
#[test]
fn what_a_graph_asserts_is_an_error_and_leaves_an_engine_that_works() {
    let model = on_cpu(random_model("graniteswitch", Kind::Plain, false).unwrap());
    let text = Rows {
        token: &[1, 5, 7],
        embd: &[],
        pos: &[0, 1, 2],
    };
    let answer = |engine: &mut Engine| {
        engine.begin_with(&text).unwrap();
        engine.run(0..N_LAYER, &[0, 1, 2]);
        engine.logits()
    };
    let expected = answer(&mut engine(&model, EXACT, &[]));

    let mut engine = engine(&model, EXACT, &[]);
    engine.begin();
    let rows = vision_rows();
    engine.run(0..N_LAYER, &all_rows()[..N_BEFORE]);
    let refused = engine.context.run(&engine.sequence, &range(0..N_LAYER, &rows));
    let error = refused.unwrap_err();
    assert_eq!(error.status, Status::Failed, "{error}");
    assert!(error.message.contains("requires token input"), "{error}");
    assert_eq!(answer(&mut engine), expected);
}

fn on_cpu(model: Model) -> Loaded {
    Loaded {
        device: Device::Cpu,
        model: Arc::new(model),
    }
}

/// In llama.cpp's own memory rows that are not run equal rows that were never there, bit by bit.
fn check_before_layer_0(model: &Loaded) {
    let kept: Vec<i32> = all_rows()
        .into_iter()
        .filter(|row| !vision_rows().contains(row) || row % 9 == 0)
        .collect();
    let whole = prompt(model);
    let not_run = logits_of_stock(model, &whole, &kept);

    let n_pos = model.n_pos_per_embd();
    let n_embd = model.n_embd_inp();
    let mut fewer = RandomRows {
        token: Vec::new(),
        embd: Vec::new(),
        pos: Vec::new(),
    };
    for row in kept.iter().map(|&row| row as usize) {
        fewer.token.push(whole.token[row]);
        fewer.pos.extend(&whole.pos[row * n_pos..][..n_pos]);
        if whole.token[row] == -1 {
            fewer
                .embd
                .extend(&whole.embd[(row - N_BEFORE) * n_embd..][..n_embd]);
        }
    }
    let all_of_fewer: Vec<i32> = (0..fewer.token.len() as i32).collect();
    let never_there = logits_of_stock(model, &fewer, &all_of_fewer);
    let difference = max_difference(&never_there, &not_run);
    assert!(
        difference == 0.0,
        "rows that were never there differ by {difference}"
    );

    let dense = logits_of_stock(model, &whole, &all_rows());
    let change = max_difference(&dense, &not_run);
    assert!(
        change > 1e-3 * size_of(&dense),
        "dropping rows changed next to nothing: {change}"
    );
}

/// Some rows of a prompt, text and picture in calls of their own. In one context RWKV-7 does not give the same twice.
fn logits_of_stock(model: &Loaded, prompt: &RandomRows, rows: &[i32]) -> Vec<f32> {
    let mut engine = engine(model, EXACT, &[]);
    engine.begin_with(&prompt.as_rows()).unwrap();
    let n_layer = engine.n_layer();
    let n_vision = rows.len() - N_BEFORE - N_AFTER;
    for part in [
        &rows[..N_BEFORE],
        &rows[N_BEFORE..N_BEFORE + n_vision],
        &rows[N_BEFORE + n_vision..],
    ] {
        engine.run(0..n_layer, part);
    }
    engine.logits()
}

/// Any cut equals one graph, one graph equals a stock decode, and dropped rows equal masked ones.
fn check(
    model: &Loaded,
    #[cfg_attr(not(feature = "lab"), allow(unused_variables))] (name, kind): (&str, Kind),
) {
    assert_eq!(model.n_layer(), N_LAYER);
    for setup in [EXACT, SETUPS[2]] {
        let mut engine = engine(model, setup, &every_layer(model));
        let whole = engine.dense_with_cuts(&[]);
        assert!(
            whole.iter().all(|logit| logit.is_finite()),
            "{setup:?}: {whole:?}"
        );
        for cuts in [&[1][..], &[2], &[3], &[1, 2, 3]] {
            assert_eq!(
                engine.dense_with_cuts(cuts),
                whole,
                "{setup:?}, cut before {cuts:?} differ"
            );
        }
    }
    cuts::staged_equals_stock(model, EXACT, "");
    probe::contributions_add_up(model, EXACT, "");
    let size = size_of(&engine(model, EXACT, &every_layer(model)).dense_with_cuts(&[]));
    for il in [1, 2] {
        rows::dropped_equal_masked(model, (EXACT, il), (5e-4 * size, 1e-2 * size), "");
    }
    rows::merged_keys_stay_and_zeroed_go(model, EXACT, 2e-3 * size, "");
    #[cfg(feature = "lab")]
    inspect::lens_is_ending(&on_cpu(random_model(name, kind, true).unwrap()), 1e-5 * size, "");
}

/// The standard deviation of logits.
fn size_of(logits: &[f32]) -> f32 {
    let n = logits.len() as f32;
    let mean = logits.iter().sum::<f32>() / n;
    (logits.iter().map(|logit| (logit - mean).powi(2)).sum::<f32>() / n).sqrt()
}

/// Accepted ones, and the others by reason.
fn in_words(verdicts: &[(String, Verdict)]) -> String {
    let mut accepted = Vec::new();
    let mut others: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, verdict) in verdicts {
        let name = format!("`{name}`");
        match verdict {
            Verdict::Accepted => accepted.push(name),
            Verdict::Refused(reason) => others.entry(reason).or_default().push(name),
            Verdict::Failed(_) => {}
            Verdict::NoModel => others.entry(UNTRIED).or_default().push(name),
        }
    }
    let mut text = format!("Accepted, {}: {}.\n\n", accepted.len(), accepted.join(", "));
    text.push_str("| refused because | architectures |\n| --- | --- |\n");
    for (reason, names) in others {
        text.push_str(&format!("| {reason} | {} |\n", names.join(", ")));
    }
    text
}

const UNTRIED: &str = "no small model of it could be made to try it";

/// What stands between the marks in docs/models.md.
fn check_document(expected: &str) {
    const MARKS: [&str; 2] = ["<!-- architectures: begin -->\n", "<!-- architectures: end -->\n"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/models.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(MARKS[0]).expect("a mark");
    let (found, after) = rest.split_once(MARKS[1]).expect("a mark");
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        let document = [before, MARKS[0], expected, MARKS[1], after].concat();
        return std::fs::write(&path, document).unwrap();
    }
    assert!(
        found == expected,
        "docs/models.md is stale, INSTA_UPDATE=always writes what came out:\n{expected}"
    );
}
