//! Conversations with one session, which remembers, against their definition: of every turn what was dropped and kept, the
//! rows and cells of every layer, the logits and the answer. Questions are taken back and asked in other words, pictures
//! come later, answers go on other than they were generated, and conversations under several policies take turns.

use visipruner::engine::{AnyPolicy, Cuts, EncodedPrompt, Exchange, Part, encode};
use visipruner::policy::PolicyOverrides;

use super::common::reference::{Conversation, Prompt as Rows};
use super::*;

/// For models of 8 layers and pictures of about 16 tokens.
const POLICIES: [&str; 9] = [
    "policy = 'off'",
    "policy = 'visipruner'\nshallow_mid_layer = 1",
    "policy = 'visipruner'\nstages = ['shallow', 'middle', 'deep']\nshallow_mid_layer = 2\nevict_shallow_kv = true",
    "policy = 'visipruner'\nstages = ['shallow', 'middle', 'deep']\nshallow_mid_layer = 3\nlayer0 = 'half'\n\
     shallow_mask = 'skip'\nvisual_self_attention = 'remove'",
    "policy = 'fixed'\nfusion_layer = 3\nkeep = 5\nexit_from = 6",
    "policy = 'fixed'\nfusion_layer = 5\nkeep = 3\nexit_from = 7\nevict_shallow_kv = true\nshallow_mid_layer = 2",
    "policy = 'fastv'\nrank_layers = [1]\nkeep = ['50%']",
    "policy = 'pyramiddrop'\nrank_layers = [1, 3, 5]\nkeep = ['50%', '25%', 2]",
    "policy = 'divprune'\nbudget = 5",
];

const N_ANSWER: usize = 3;

/// What is said in one turn.
#[derive(Debug, Clone)]
struct Message {
    parts: Vec<Part>,
    images: Vec<Image>,
}

/// What becomes of an answer.
#[derive(Debug, Clone)]
enum Answer {
    AsGenerated,
    /// So many of its tokens, and others.
    Edited(usize, Vec<i32>),
}

/// A turn: the question that stays, and others that are asked in its place, before it or after it.
#[derive(Debug, Clone)]
struct Turn {
    before: Vec<Message>,
    asked: Message,
    after: Vec<Message>,
    answer: Answer,
}

impl Turn {
    fn new(asked: Message, answer: Answer) -> Turn {
        Turn {
            before: Vec::new(),
            asked,
            after: Vec::new(),
            answer,
        }
    }
}

/// Draws conversations.
struct Draw(Rng);

impl Draw {
    fn is(&mut self, n_of_four: usize) -> bool {
        self.0.below(4) < n_of_four
    }

    fn text(&mut self) -> Part {
        const WORDS: [&str; 6] = ["what", "is", "in", "the", "x", "y"];
        let words: Vec<&str> = (0..2 + self.0.below(3)).map(|_| WORDS[self.0.below(6)]).collect();
        Part::Text(format!(" {} ", words.join(" ")))
    }

    fn add_picture(&mut self, message: &mut Message) {
        if self.is(2) {
            message.parts.push(self.text());
        }
        message.parts.push(Part::Image);
        // not one that is there: tokens that are equal have no order
        let mut seed = self.0.below(4) as u64;
        while message.images.contains(&picture(seed, 32)) {
            seed = self.0.below(4) as u64;
        }
        message.images.push(picture(seed, 32));
    }

    fn message(&mut self, n_images: usize) -> Message {
        let mut message = Message {
            parts: Vec::new(),
            images: Vec::new(),
        };
        (0..n_images).for_each(|_| self.add_picture(&mut message));
        message.parts.push(self.text());
        message
    }

    /// Another question about the same pictures, now and then with one more.
    fn in_other_words(&mut self, message: &Message) -> Message {
        let mut other = message.clone();
        other.parts.pop();
        if self.is(1) {
            self.add_picture(&mut other);
        }
        other.parts.push(self.text());
        other
    }

    fn turn(&mut self, n_images: usize) -> Turn {
        let asked = self.message(n_images);
        let mut others = |n: usize| (0..n).map(|_| self.in_other_words(&asked)).collect();
        let (before, after) = (others(1), others(1));
        Turn {
            before,
            after,
            answer: if self.is(2) {
                Answer::AsGenerated
            } else {
                let token = |_| 10 + self.0.below(200) as i32;
                Answer::Edited(1, (0..2).map(token).collect())
            },
            asked,
        }
    }

    /// Two to four turns with at most two pictures each.
    fn conversation(&mut self) -> Vec<Turn> {
        let n_turns = 2 + self.0.below(3);
        let first = if self.is(1) { 0 } else { 1 + self.0.below(2) };
        let mut turns = vec![self.turn(first)];
        while turns.len() < n_turns {
            let n_images = if first == 0 && turns.len() == 1 {
                1
            } else {
                self.0.below(3)
            };
            turns.push(self.turn(n_images));
        }
        turns
    }
}

/// A conversation under one policy.
#[derive(Clone)]
struct Thread<'a> {
    policy: PolicyConfig,
    history: Vec<Exchange>,
    images: Vec<Image>,
    reference: Conversation<'a>,
}

impl Thread<'_> {
    fn request(&self, message: &Message) -> Request {
        Request {
            images: [self.images.as_slice(), &message.images].concat(),
            policy: Some(AnyPolicy::Config(self.policy.clone())),
            n_predict: N_ANSWER,
            report_logits: true,
            report_probes: true,
            ..Request::new(Prompt::Chat {
                system: None,
                history: self.history.clone(),
                user: message.parts.clone(),
            })
        }
    }

    /// The turn is over.
    fn go_on(&mut self, turn: &Turn, run: &Run, generated: &[i32]) {
        let tokens = match &turn.answer {
            Answer::AsGenerated => generated.to_vec(),
            Answer::Edited(n, rest) => [&generated[..*n], rest].concat(),
        };
        let as_row = |&token: &i32| token as usize;
        self.reference
            .answer(run, &tokens.iter().map(as_row).collect::<Vec<_>>());
        self.images.extend(turn.asked.images.clone());
        self.history.push(Exchange {
            user: turn.asked.parts.clone(),
            answer: "so".to_owned(),
            tokens: Some(tokens),
        });
    }
}

/// The rows of a prompt, as the reference takes them.
fn rows(prompt: &EncodedPrompt, arch: Arch) -> Rows {
    let embd: Vec<f64> = prompt.embeddings().iter().map(|&x| x.into()).collect();
    let n_embd = embd.len() / prompt.layout().n_vision().max(1);
    let inputs = inputs(prompt.tokens(), embd.chunks(n_embd.max(1)));
    if arch != Arch::Qwen2Vl {
        return Rows::new(&inputs, prompt.layout());
    }
    let grid = |image: usize| prompt.media()[image].grid.expect("M-RoPE has grids");
    let grids: Vec<_> = (0..prompt.layout().vision.len()).map(grid).collect();
    Rows::with_grids(&inputs, prompt.layout(), &grids)
}

/// What was seen of the policies over many turns.
#[derive(Debug, Default)]
struct Seen {
    n_asked: usize,
    n_compared: usize,
    n_reused: usize,
    /// Of turns that a threshold decides.
    n_judged: usize,
    n_fused: usize,
    n_exited: usize,
}

/// A model with a session.
struct Table<'a> {
    arch: Arch,
    model: &'a Model,
    projector: &'a mut Projector,
    session: Session,
    setup: Setup,
    seen: Seen,
}

impl Table<'_> {
    /// Asks a question in a thread. There is no answer to compare with if the definition comes too near to a threshold.
    fn ask<'r>(
        &mut self,
        thread: &mut Thread<'r>,
        message: &Message,
        name: &str,
    ) -> Option<(Run<'r>, Vec<i32>)> {
        let request = thread.request(message);
        let prompt = encode(self.model, Some(&mut *self.projector), &request, |_| Continue(()));
        let prompt = prompt.unwrap().expect("nothing stopped it");
        let expected = thread.reference.ask(&rows(&prompt, self.arch));
        self.seen.note(&thread.policy, &expected);
        if expected.margin < self.setup.margin {
            return None;
        }
        let answer = self.session.generate_encoded(&prompt, &request, |_| Continue(()));
        let answer = answer.unwrap();
        let remembers = self.session.options().remember;
        let name = format!("{name}, remembering: {remembers}, {}", thread.policy.to_toml());
        let report = &answer.report;
        compare_decisions(report, &expected, prompt.layout(), &name);
        compare_layers(report, &expected, self.setup, &name);
        let logits: Vec<f64> = report.logits.iter().flatten().map(|&x| x.into()).collect();
        assert_near(&logits, &expected.logits, self.setup.logits, &name);
        compare_decoded(report, &expected.decode(N_ANSWER), self.setup, &name);
        self.seen.n_compared += 1;
        self.seen.n_reused += usize::from(report.reused_rows > 0);
        Some((expected, answer.tokens))
    }

    /// Asks a question that the definition does not come near to a threshold with.
    fn ask_safely(&mut self, thread: &mut Thread, message: &Message, name: &str) {
        self.ask(thread, message, name).expect("far from every threshold");
    }

    /// Asks what is taken back: the thread is as before.
    fn ask_aside(&mut self, threads: &[Thread], messages: &[Message], name: &str) {
        for message in messages {
            for thread in threads {
                self.ask(&mut thread.clone(), message, name);
            }
        }
    }

    /// Every question of a turn in every thread. Threads that come too near to a threshold end.
    fn turn<'r>(&mut self, threads: Vec<Thread<'r>>, turn: &Turn, name: &str) -> Vec<Thread<'r>> {
        self.ask_aside(&threads, &turn.before, &format!("{name}, before"));
        let mut next = Vec::new();
        for thread in &threads {
            let mut thread = thread.clone();
            if let Some((run, generated)) = self.ask(&mut thread, &turn.asked, name) {
                thread.go_on(turn, &run, &generated);
                next.push(thread);
            }
        }
        self.ask_aside(&threads, &turn.after, &format!("{name}, after"));
        next
    }
}

impl Seen {
    fn note(&mut self, policy: &PolicyConfig, run: &Run) {
        self.n_asked += 1;
        if let (PolicyConfig::VisiPruner(_), false) = (policy, run.entered.is_empty()) {
            self.n_judged += 1;
            self.n_fused += usize::from(run.fusion_layer.is_some());
            self.n_exited += usize::from(run.exit_layer.is_some());
        }
    }
}

/// Thresholds that most turns come to, in the middle and in the deep stage.
fn thresholds(arch: Arch) -> &'static str {
    match arch {
        Arch::Qwen2Vl => "layer_threshold = 0.998\ntokens_threshold = 0.02\nexit_threshold = 0.997",
        _ => "layer_threshold = 0.99\ntokens_threshold = 0.07\nexit_threshold = 0.985",
    }
}

fn policy(toml: &str, arch: Arch) -> PolicyConfig {
    let read =
        |toml: &str, base: &PolicyConfig| PolicyOverrides::from_toml(toml).unwrap().apply(base).unwrap();
    match read(toml, &PolicyConfig::Off) {
        base @ PolicyConfig::VisiPruner(_) => {
            let relative = format!("tokens_threshold_unit = 'relative'\n{}", thresholds(arch));
            read(toml, &read(&relative, &base))
        }
        policy => policy,
    }
}

fn session(model: &Model, setup: Setup, remember: bool) -> Session {
    let options = SessionOptions {
        n_ctx: Some(2048),
        n_threads: Some(1), // tests run side by side
        n_ubatch: setup.n_ubatch,
        flash_attn: setup.flash_attn,
        type_k: setup.kv_type,
        type_v: setup.kv_type,
        cuts: Cuts::EveryLayer,
        n_prefixes: 24,
        remember,
        ..SessionOptions::default()
    };
    Session::new(model, options).unwrap()
}

fn fixture(arch: Arch) -> Fixture {
    let llm = RandomLlm {
        n_embd_head: 16,
        n_ff: 96,
        ..RandomLlm::new(arch, 60)
    };
    let projector = match arch {
        Arch::Qwen2Vl => RandomProjector::qwen2vl(61, llm.n_embd()),
        _ => RandomProjector::new(61, llm.n_embd()),
    };
    Fixture::with_projector(&llm, &projector)
}

/// ggml computes the angles of M-RoPE and the table of GELU less exactly.
const LESS_EXACT: Setup = Setup {
    logits: 2e-3,
    probe: 1e-3,
    margin: 4e-3,
    ..F32
};

fn setup(arch: Arch) -> Setup {
    match arch {
        Arch::Llama => F32,
        _ => LESS_EXACT,
    }
}

impl<'a> Table<'a> {
    fn new(arch: Arch, model: &'a Model, projector: &'a mut Projector, remember: bool) -> Self {
        Table {
            arch,
            model,
            projector,
            session: session(model, setup(arch), remember),
            setup: setup(arch),
            seen: Seen::default(),
        }
    }
}

impl<'a> Thread<'a> {
    fn new(reference: &'a Reference, arch: Arch, toml: &str) -> Self {
        let policy = policy(toml, arch);
        Thread {
            reference: Conversation::new(reference, Rule::Policy(policy.clone())),
            policy,
            history: Vec::new(),
            images: Vec::new(),
        }
    }
}

/// Conversations of a session, under all policies in turn.
fn check(arch: Arch, remember: bool, seeds: Range<u64>) -> Seen {
    let mut fixture = fixture(arch);
    let mut table = Table::new(arch, &fixture.model, &mut fixture.projector, remember);
    for seed in seeds {
        let mut threads: Vec<Thread> = POLICIES
            .map(|toml| Thread::new(&fixture.reference, arch, toml))
            .to_vec();
        for (i, turn) in Draw(Rng::new(seed)).conversation().iter().enumerate() {
            threads = table.turn(threads, turn, &format!("{arch:?}, conversation {seed}, turn {i}"));
        }
    }
    let seen = table.seen;
    assert!(seen.n_compared * 10 >= seen.n_asked * 8, "{seen:?}");
    assert!(
        seen.n_fused * 2 > seen.n_judged && seen.n_exited * 4 > seen.n_judged,
        "{seen:?}"
    );
    seen
}

#[test]
fn read_afresh_by_llama() {
    check(Arch::Llama, false, 2..4);
}

#[test]
fn read_afresh_with_sliding_windows() {
    check(Arch::Gemma3, false, 10..12);
}

#[test]
fn read_afresh_with_positions_on_a_grid() {
    check(Arch::Qwen2Vl, false, 22..24);
}

fn check_remembering(arch: Arch, seeds: Range<u64>) {
    let seen = check(arch, true, seeds);
    assert!(seen.n_reused * 2 > seen.n_compared, "{seen:?}");
}

#[test]
fn remembered_by_llama() {
    check_remembering(Arch::Llama, 2..5);
}

#[test]
fn remembered_with_sliding_windows() {
    check_remembering(Arch::Gemma3, 12..15);
}

#[test]
fn remembered_with_positions_on_a_grid() {
    check_remembering(Arch::Qwen2Vl, 22..24);
}

fn message(parts: &[Part], text: &str) -> Message {
    let is_picture = |part: &&Part| **part == Part::Image;
    let n_pictures = parts.iter().filter(is_picture).count() as u64;
    Message {
        parts: [parts, &[Part::Text(text.to_owned())]].concat(),
        images: (0..n_pictures).map(|i| picture(1 + i, 32)).collect(),
    }
}

/// With text between them, and before.
fn two_pictures() -> [Part; 4] {
    let text = |text: &str| Part::Text(text.to_owned());
    [text(" x "), Part::Image, text(" what in x x "), Part::Image]
}

/// The last token of an answer that ended by its length was never computed: it is computed with the turn that follows, and
/// sees of the pictures what the answer saw.
#[test]
fn an_answer_that_goes_on_sees_what_its_turn_kept() {
    let fuses = "policy = 'fixed'\nfusion_layer = 3\nkeep = 5\nexit_from = 8";
    let mut fixture = fixture(Arch::Llama);
    for (answer, remember) in [
        (Answer::AsGenerated, false),
        (Answer::AsGenerated, true),
        (Answer::Edited(1, vec![40, 41]), true),
    ] {
        let mut table = Table::new(Arch::Llama, &fixture.model, &mut fixture.projector, remember);
        let thread = Thread::new(&fixture.reference, Arch::Llama, fuses);
        let turn = Turn::new(message(&[Part::Image], " what is in the x "), answer);
        let mut threads = table.turn(vec![thread], &turn, "first");
        table.ask_safely(&mut threads[0], &message(&[], " is the y in "), "next");
    }
}

/// Which tokens of two pictures enter the model is decided for both together, whether one of them is there already or not.
#[test]
fn pictures_of_one_message_are_chosen_among_together() {
    let mut fixture = fixture(Arch::Llama);
    for remember in [false, true] {
        let mut table = Table::new(Arch::Llama, &fixture.model, &mut fixture.projector, remember);
        for pictures in [&[Part::Image][..], &[Part::Image, Part::Image]] {
            let policy = "policy = 'divprune'\nbudget = 5";
            let mut thread = Thread::new(&fixture.reference, Arch::Llama, policy);
            table.ask_safely(&mut thread, &message(pictures, " what is in the x "), "asked");
        }
    }
}

/// A question that lets all tokens through all layers, and one that drops some: the second runs what goes on once more, and
/// text between the pictures with it. It follows a picture even if nothing of that is kept.
#[test]
fn text_between_pictures_runs_once_more() {
    let shallow = "policy = 'visipruner'\nshallow_mid_layer = 3\nshallow_mask = 'skip'";
    for (arch, remember) in [(Arch::Llama, true), (Arch::Gemma3, false), (Arch::Gemma3, true)] {
        let mut fixture = fixture(arch);
        let mut table = Table::new(arch, &fixture.model, &mut fixture.projector, remember);
        for (stages, text) in [
            ("'shallow'", " what is in "),
            ("'shallow', 'middle'", " is the x "),
        ] {
            let policy = format!("{shallow}\nstages = [{stages}]");
            let mut thread = Thread::new(&fixture.reference, arch, &policy);
            table.ask_safely(&mut thread, &message(&two_pictures(), text), &format!("{arch:?}"));
        }
    }
}

/// What the tokens of a second picture are behind text that a turn has settled does not depend on who has asked before. The
/// second turn looks at them in layers from which the first one had dropped others.
#[test]
fn text_between_pictures_is_settled() {
    let judges = "policy = 'visipruner'\nstages = ['middle']\nshallow_mid_layer = 0\nlayer_threshold = 0.996";
    let mut fixture = fixture(Arch::Llama);
    for remember in [false, true] {
        let mut table = Table::new(Arch::Llama, &fixture.model, &mut fixture.projector, remember);
        let mut dense = Thread::new(&fixture.reference, Arch::Llama, "policy = 'fastv'\nkeep = '100%'");
        table.ask_safely(&mut dense, &message(&two_pictures(), " what is in "), "dense");

        let thread = Thread::new(&fixture.reference, Arch::Llama, judges);
        let answer = Answer::Edited(0, Vec::new());
        let turn = Turn::new(message(&two_pictures(), " is the x "), answer);
        let mut threads = table.turn(vec![thread], &turn, "pruned");
        table.ask_safely(&mut threads[0], &message(&[], " is the y in "), "next");
    }
}
