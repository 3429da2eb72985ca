//! What a session remembers changes what a request costs, and nothing else: in whatever order questions, pictures, turns
//! and policies come, each answer is the one that a session gives that remembers nothing.

use super::common::policies::{policies, policy};
use super::*;
use visipruner::engine::{AnyPolicy, Cache, Cuts, EncodedPrompt, Exchange, Generation};

/// How far logits of about 2 differ that were computed in other batches, at most.
const ROUNDING: f32 = 2e-3;

/// A conversation: what was asked and answered, and what is asked.
#[derive(Debug, Clone)]
struct Turns {
    images: Vec<Image>,
    history: Vec<Exchange>,
    user: Vec<Part>,
}

impl Turns {
    fn request(&self, policy: &PolicyConfig) -> Request {
        Request {
            images: self.images.clone(),
            policy: Some(AnyPolicy::Config(policy.clone())),
            n_predict: 3,
            ignore_eos: true,
            report_logits: true,
            ..Request::new(Prompt::Chat {
                system: None,
                history: self.history.clone(),
                user: self.user.clone(),
            })
        }
    }
}

/// Numbers that look random.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// A message with some pictures, text before, between and after them.
    fn message(&mut self, images: &mut Vec<Image>, n_images: usize) -> Vec<Part> {
        const WORDS: [&str; 6] = [
            "what colour",
            "how many",
            "is it red",
            "where",
            "why",
            "and the other one",
        ];
        let mut parts = Vec::new();
        for _ in 0..n_images {
            if self.below(2) == 0 {
                parts.push(Part::Text(format!("{} ", WORDS[self.below(6)])));
            }
            parts.push(Part::Image);
            images.push(picture(30, 30, 1 + self.below(3) as u32));
        }
        parts.push(Part::Text(format!(
            "{} {}?",
            WORDS[self.below(6)],
            WORDS[self.below(6)]
        )));
        parts
    }

    /// Conversations that have much in common: each is a beginning of one of a few, or goes on from it.
    fn conversations(&mut self, n: usize) -> Vec<Turns> {
        let mut all: Vec<Turns> = Vec::new();
        while all.len() < n {
            let is_new = all.is_empty() || self.below(3) == 0;
            let mut asked = if is_new {
                Turns {
                    images: Vec::new(),
                    history: Vec::new(),
                    user: Vec::new(),
                }
            } else {
                let before = all[self.below(all.len())].clone();
                let mut history = before.history;
                if self.below(2) == 0 && history.len() < 3 {
                    history.push(Exchange {
                        user: before.user,
                        answer: ["yes it is", "no", "four of them"][self.below(3)].to_owned(),
                        tokens: None,
                    });
                    Turns {
                        images: before.images,
                        history,
                        user: Vec::new(),
                    }
                } else {
                    // another question after the same turns
                    let n_before = history
                        .iter()
                        .flat_map(|turn| &turn.user)
                        .filter(|part| **part == Part::Image);
                    Turns {
                        images: before.images[..n_before.count()].to_vec(),
                        history,
                        user: Vec::new(),
                    }
                }
            };
            let n_images = if is_new { 1 + self.below(2) } else { self.below(2) };
            asked.user = self.message(&mut asked.images, n_images);
            all.push(asked);
        }
        all
    }
}

fn options(remember: bool) -> SessionOptions {
    SessionOptions {
        cuts: Cuts::EveryLayer,
        n_threads: Some(1),
        n_ctx: Some(1024),
        // without rounding in the cache, what differs is the order of additions
        type_k: KvType::F32,
        type_v: KvType::F32,
        flash_attn: FlashAttention::Off,
        remember,
        ..SessionOptions::default()
    }
}

fn max_difference(a: &Outcome, b: &Outcome) -> f32 {
    let (a, b) = (a.report.logits.as_ref(), b.report.logits.as_ref());
    let pairs = a.expect("logits").iter().zip(b.expect("logits"));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Why nothing was dropped, and the cosine that the sentence ends with, if it does: that is rounded like the logits.
fn reason(report: &visipruner::report::RunReport) -> (Option<&str>, Option<f32>) {
    const COSINE: &str = "the smallest cosine was ";
    let sentence = report.skipped.as_deref();
    match sentence.and_then(|sentence| sentence.split_once(COSINE)) {
        Some((why, cosine)) => (Some(why), cosine.trim_end_matches(')').parse().ok()),
        None => (sentence, None),
    }
}

/// What must not depend on what is remembered.
fn assert_same(found: &Outcome, alone: &Outcome, what: &str) {
    let difference = max_difference(found, alone);
    assert!(difference < ROUNDING, "{what}: {difference}");
    let (found, alone) = (&found.report, &alone.report);
    assert_eq!(found.drops, alone.drops, "{what}");
    assert_eq!(found.fusion_layer, alone.fusion_layer, "{what}");
    assert_eq!(found.exit_layer, alone.exit_layer, "{what}");
    let ((found_why, found_cosine), (alone_why, alone_cosine)) = (reason(found), reason(alone));
    assert_eq!(found_why, alone_why, "{what}");
    assert_eq!(found_cosine.is_some(), alone_cosine.is_some(), "{what}");
    let is_close = |(a, b): (f32, f32)| (a - b).abs() < ROUNDING;
    assert!(
        found_cosine.zip(alone_cosine).is_none_or(is_close),
        "{what}: {found_cosine:?} {alone_cosine:?}"
    );
    let held = |report: &visipruner::report::RunReport| -> Vec<usize> {
        report.layers.iter().map(|layer| layer.kv).collect()
    };
    assert_eq!(held(found), held(alone), "{what}");
    assert_eq!(
        (found.flops.model, found.flops.paper, found.flops.vision_attention),
        (alone.flops.model, alone.flops.paper, alone.flops.vision_attention),
        "{what}: a policy costs what it costs alone"
    );
}

fn check(
    arch: Arch,
    (n_conversations, n_requests): (usize, usize),
    (policies, cuts): (&[PolicyConfig], Cuts),
    seed: u64,
) {
    // A memory with recurrent layers can only go on from where a sequence ends: it needs more of them.
    let (n_prefixes, n_reused_at_least) = if arch == Arch::Lfm2 {
        (16, n_requests / 5)
    } else {
        (SessionOptions::default().n_prefixes, n_requests / 2)
    };
    let mut pair = Pair::of_kind(arch);
    let mut draw = Draw(seed);
    let conversations = draw.conversations(n_conversations);
    let new_session = |remember| {
        let options = SessionOptions {
            cuts: cuts.clone(),
            n_prefixes,
            ..options(remember)
        };
        Session::new(&pair.model, options).expect("a session")
    };
    let (mut session, mut alone) = (new_session(true), new_session(false));
    let mut n_reused = 0;
    for n in 0..n_requests {
        let (i, j) = (draw.below(n_conversations), draw.below(policies.len()));
        let request = conversations[i].request(&policies[j]);
        let found = session
            .generate(Some(&mut pair.projector), &request, ignore)
            .expect("an answer");
        let expected = alone
            .generate(Some(&mut pair.projector), &request, ignore)
            .expect("an answer");
        assert_eq!(expected.report.reused_rows, 0);
        n_reused += usize::from(found.report.reused_rows > 0);
        let what = format!("{arch:?} request {n}: conversation {i}, {}", policies[j].name());
        assert_same(&found, &expected, &what);
    }
    assert!(
        n_reused > n_reused_at_least,
        "{arch:?}: {n_reused} of {n_requests} requests found anything"
    );
}

#[test]
fn whatever_came_before_an_answer_is_the_same() {
    for (i, arch) in [Arch::Llama, Arch::Qwen2, Arch::Qwen2Vl, Arch::Gemma3]
        .into_iter()
        .enumerate()
    {
        check(arch, (10, 40), (&policies(), Cuts::EveryLayer), i as u64);
    }
}

/// Policies that act before layer 0, and none, on llama.cpp's own memory.
#[test]
fn in_stocks_memory_an_answer_is_the_same() {
    let before: Vec<PolicyConfig> = policies()
        .into_iter()
        .filter(|policy| *policy == PolicyConfig::Off || policy.acts_before_model())
        .chain([policy("policy = 'random'\nbudget = 5")])
        .collect();
    assert_eq!(before.len(), 3);
    let archs = [Arch::Llama, Arch::Qwen2Vl, Arch::Gemma3, Arch::Lfm2];
    for (i, arch) in archs.into_iter().enumerate() {
        check(arch, (10, 40), (&before, Cuts::OfPolicy), 10 + i as u64);
    }
}

fn about_a_picture(question: &str) -> Request {
    Request {
        images: vec![picture(40, 40, 1)],
        report_logits: true,
        n_predict: 6,
        ignore_eos: true,
        ..Request::new(Prompt::chat(question))
    }
}

#[test]
fn a_second_question_computes_its_text_only() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(with_policy(fixed(3, 4, 6)));
    let first = session.generate(Some(&mut pair.projector), &about_a_picture("what is it?"), ignore);
    let second = session.generate(
        Some(&mut pair.projector),
        &about_a_picture("and how many?"),
        ignore,
    );
    let (first, second) = (
        first.expect("an answer").report,
        second.expect("an answer").report,
    );
    assert_eq!((first.reused_rows, first.frontier), (0, None));
    let prefix_end = second.image_spans[0][0] + second.image_spans[0][1];
    assert_eq!((second.reused_rows, second.frontier), (prefix_end, Some(4)));
    assert!(second.prefix_bytes > 0);
    assert!(
        second.flops.computed < first.flops.computed,
        "{} {}",
        second.flops.computed,
        first.flops.computed
    );
}

#[test]
fn answers_side_by_side_are_those_of_each_alone() {
    let mut pair = Pair::new(Arch::Llama);
    let questions = [
        "what is it?",
        "how many are there?",
        "is it red?",
        "why is it so?",
    ];
    let policies = policies();
    let request = |i: usize| Request {
        policy: Some(AnyPolicy::Config(policies[i + 1].clone())),
        ..about_a_picture(questions[i])
    };
    let mut alone = Session::new(&pair.model, options(false)).expect("a session");
    let expected: Vec<Outcome> = (0..4)
        .map(|i| {
            alone
                .generate(Some(&mut pair.projector), &request(i), ignore)
                .expect("an answer")
        })
        .collect();

    let options = SessionOptions {
        n_sequences: 4,
        ..options(true)
    };
    let mut cache = Cache::new(&pair.model, &options).expect("a cache");
    let mut answers = Vec::new();
    for i in 0..4 {
        let prompt: EncodedPrompt =
            engine::encode(&pair.model, Some(&mut pair.projector), &request(i), ignore)
                .expect("encodes")
                .expect("nothing stops it");
        // the earlier ones go on meanwhile: between two calls for this prompt, and after it
        let mut n_steps = 0;
        let answer = cache
            .begin_beside(&prompt, &request(i), ignore, |decoder| {
                n_steps += 1;
                decoder
                    .step(&mut answers.iter_mut().collect::<Vec<_>>())
                    .expect("a step");
            })
            .expect("it begins");
        assert!(n_steps > 2, "{n_steps} steps while question {i} was read");
        answers.push(answer);
        cache
            .step(&mut answers.iter_mut().collect::<Vec<_>>())
            .expect("a step");
    }
    while answers.iter().any(|answer| answer.stop().is_none()) {
        cache
            .step(&mut answers.iter_mut().collect::<Vec<_>>())
            .expect("a step");
    }
    for (i, answer) in answers.into_iter().enumerate() {
        let found = cache.finish(answer);
        assert_same(&found, &expected[i], questions[i]);
        assert_eq!(found.tokens, expected[i].tokens, "{}", questions[i]);
    }
}

#[test]
fn a_policy_that_cuts_elsewhere_is_refused() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(with_policy(fixed(3, 4, 6)));
    let request = Request {
        policy: Some(AnyPolicy::Config(fixed(2, 4, 6))),
        ..about_a_picture("what is it?")
    };
    let refused = session.generate(Some(&mut pair.projector), &request, ignore);
    assert!(matches!(refused, Err(Error::NoCut { il: 3, .. })), "{refused:?}");
    session.answer(&mut pair.projector);
    let mut stock = pair.session(SessionOptions::default());
    let refused = stock.generate(Some(&mut pair.projector), &request, ignore);
    assert!(matches!(refused, Err(Error::NoCut { .. })), "{refused:?}");
}

/// One of several answers of a cache goes on or ends, another begins, in whatever order.
struct Soak<'a> {
    pair: &'a mut Pair,
    draw: Draw,
    prompts: Vec<(EncodedPrompt, Request)>,
    policies: Vec<PolicyConfig>,
    cache: Cache,
    answers: Vec<Generation>,
}

impl Soak<'_> {
    const MOST_ANSWERS: usize = 3;

    fn step(&mut self) -> Option<Outcome> {
        match self.draw.below(8) {
            0..=2 => self.begin(),
            3 | 4 => self
                .cache
                .step(&mut self.answers.iter_mut().collect::<Vec<_>>())
                .expect("a step"),
            // taken back: as if it had never been asked
            5 => drop(self.taken()),
            6 => return self.taken().map(|answer| self.cache.finish(answer)),
            _ if self.draw.below(10) == 0 => self.cache.forget(),
            _ => {}
        }
        None
    }

    fn taken(&mut self) -> Option<Generation> {
        let n = self.answers.len();
        (n > 0).then(|| self.answers.swap_remove(self.draw.below(n)))
    }

    /// A question, a turn or a new picture, with any policy; one in four is cancelled while its prompt is read.
    fn begin(&mut self) {
        if self.answers.len() == Self::MOST_ANSWERS {
            return;
        }
        let (prompt, request) = &self.prompts[self.draw.below(self.prompts.len())];
        let request = Request {
            policy: Some(AnyPolicy::Config(
                self.policies[self.draw.below(self.policies.len())].clone(),
            )),
            ..request.clone()
        };
        let mut n_events = if self.draw.below(4) == 0 {
            self.draw.below(8)
        } else {
            usize::MAX
        };
        let begun = self.cache.begin(prompt, &request, |_| {
            n_events = n_events.saturating_sub(1);
            if n_events == 0 { Break(()) } else { Continue(()) }
        });
        match begun {
            Ok(answer) => self.answers.push(answer),
            Err(Error::NoRoom { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn memory_is_flat_whatever_happens() {
    let mut pair = Pair::new(Arch::Llama);
    let mut draw = Draw(7);
    let policies = policies();
    let mut prompts = Vec::new();
    for asked in draw.conversations(12) {
        let request = asked.request(&policies[0]);
        let prompt = engine::encode(&pair.model, Some(&mut pair.projector), &request, ignore);
        prompts.push((prompt.expect("encodes").expect("nothing stops it"), request));
    }
    let options = SessionOptions {
        n_sequences: Soak::MOST_ANSWERS as u32,
        ..options(true)
    };
    let cache = Cache::new(&pair.model, &options).expect("a cache");
    let mut soak = Soak {
        pair: &mut pair,
        draw,
        prompts,
        policies,
        cache,
        answers: Vec::new(),
    };
    // of each hundred operations: the most that was allocated, and that was held
    let mut most = [(0, 0); 5];
    for n in 0..500 {
        if let Some(outcome) = soak.step() {
            let (allocated, held) = &mut most[n / 100];
            *allocated = outcome.report.kv_allocated_bytes.max(*allocated);
            *held = outcome.report.prefix_bytes.max(*held);
        }
    }
    let [.., middle, _, last] = most;
    assert!(most.iter().all(|&(_, held)| held > 0), "{most:?}");
    assert!(last.0 <= middle.0 && last.1 <= middle.1, "{most:?}");

    // what is left of all that is nothing
    soak.answers.clear();
    soak.cache.forget();
    let (prompt, request) = &soak.prompts[0];
    let ask = |cache: &mut Cache| {
        let mut answer = cache.begin(prompt, request, ignore).expect("it begins");
        while answer.stop().is_none() {
            cache.step(&mut [&mut answer]).expect("a step");
        }
        cache.finish(answer)
    };
    let found = ask(&mut soak.cache);
    let mut fresh = Cache::new(&soak.pair.model, &options).expect("a cache");
    let expected = ask(&mut fresh);
    assert_same(&found, &expected, "after 500 operations");
    assert_eq!(found.report.prefix_bytes, expected.report.prefix_bytes);
    let (kv, n_rows) = (&expected.report.kv_bytes, expected.report.n_tokens as u64);
    let most_bytes = u64::from(soak.cache.n_ctx()) * kv.dense / n_rows;
    assert!(last.0 <= most_bytes, "{most:?} of {most_bytes}");
}

/// What is promised to programs with several threads.
#[test]
fn what_moves_between_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Session>();
    is_send::<Cache>();
    is_send::<engine::Generation>();
    is_send::<EncodedPrompt>();
    is_send::<Projector>();
    is_sync::<Model>();
    is_sync::<EncodedPrompt>();
    is_send::<Request>();
    is_sync::<CancelHandle>();
}

#[test]
fn embeddings_do_not_keep_the_weights() {
    let mut pair = Pair::new(Arch::Llama);
    let prompt = engine::encode(&pair.model, Some(&mut pair.projector), &question(), ignore)
        .expect("encodes")
        .expect("nothing stops it");
    let again = load(&pair.path("model.gguf")).expect("loads");
    drop(pair);
    let mut session = Session::new(&again, SessionOptions::default()).expect("a session");
    let refused = session.generate_encoded(&prompt, &question(), ignore);
    assert!(matches!(refused, Err(Error::ForeignPrompt)));
}

/// Rows of a picture that are there after questions without one, with so many bytes allowed.
fn reused_after_text(
    pair: &mut Pair,
    max_prefix_bytes: Option<u64>,
    n_prefixes: u32,
    n_texts: usize,
) -> usize {
    let options = SessionOptions {
        max_prefix_bytes,
        n_prefixes,
        ..options(true)
    };
    let mut session = Session::new(&pair.model, options).expect("a session");
    let picture = about_a_picture("what is it?");
    session
        .generate(Some(&mut pair.projector), &picture, ignore)
        .expect("an answer");
    for i in 0..n_texts {
        let text = Request {
            n_predict: 2,
            ..Request::new(Prompt::raw(&format!("{i} is a number that comes once")))
        };
        session.generate(None, &text, ignore).expect("an answer");
    }
    let again = session.generate(Some(&mut pair.projector), &picture, ignore);
    again.expect("an answer").report.reused_rows
}

#[test]
fn text_is_forgotten_before_pictures() {
    let mut pair = Pair::new(Arch::Llama);
    let none = reused_after_text(&mut pair, None, 0, 0);
    let all = reused_after_text(&mut pair, None, 4, 0);
    assert!(none == 0 && all >= 16, "{none} and {all} rows");
    assert_eq!(
        reused_after_text(&mut pair, None, 4, 9),
        all,
        "nine texts, four places"
    );
    // a byte is too little for all but what was used last
    assert!(
        reused_after_text(&mut pair, Some(1), 4, 1) <= 1,
        "all but BOS is gone"
    );
    assert_eq!(reused_after_text(&mut pair, Some(1), 4, 0), all);
}
