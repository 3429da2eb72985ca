//! An engine that cannot go on: its requests end, and the next ones are answered as soon as it can again.

use std::ops::ControlFlow;

use tokio::sync::Semaphore;

use super::at_work::{Answering, AtWork};
use super::*;
use crate::engine::ModelOptions;
use crate::server::tests::MODEL;

/// More sequences than llama.cpp makes a context for.
const TOO_MANY: u32 = 1 << 20;

fn at_work(model: &Model) -> AtWork {
    let options = SessionOptions {
        n_sequences: 2,
        n_ctx: Some(512),
        ..SessionOptions::default()
    };
    AtWork {
        cache: Cache::new(model, &options).expect("there is memory"),
        inbox: mpsc::channel().1,
        slots: Arc::new(Slots::new(2)),
        answers: Arc::default(),
        metrics: Arc::new(Metrics::new()),
        has_lost_a_device: false,
    }
}

impl AtWork {
    /// A request whose prompt is read, and what it hears.
    fn ask(&mut self, text: &str, answering: &mut Vec<Answering>) -> channel::UnboundedReceiver<Update> {
        let mut request = Request::new(Prompt::raw(text));
        request.n_predict = 8;
        request.ignore_eos = true;
        let hear = |_: Event<'_>| ControlFlow::Continue(());
        let encoded = encode(self.cache.model(), None, &request, hear).expect("is a prompt");
        let (updates, heard) = channel::unbounded_channel();
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned();
        let job = Job {
            prompt: encoded.expect("was not stopped"),
            request,
            updates,
            number: answering.len() as u64,
            arrived: Instant::now(),
            waiting: Some(Waiting::begin(&self.metrics)),
            _room: room.expect("there is room"),
        };
        self.begin(job, answering);
        heard
    }
}

fn last(mut heard: channel::UnboundedReceiver<Update>) -> Update {
    let mut last = None;
    while let Ok(update) = heard.try_recv() {
        last = Some(update);
    }
    last.expect("something was heard")
}

#[test]
fn without_a_context_answers_end_and_the_next_request_tries_anew() {
    let model = Model::load(MODEL, &ModelOptions::default(), |_| ControlFlow::Continue(())).expect("ships");
    let mut engine = at_work(&model);
    let mut answering = Vec::new();
    let first = engine.ask("once", &mut answering);
    let second = engine.ask("twice", &mut answering);
    engine.step(&mut answering);
    assert_eq!((answering.len(), engine.metrics.waiting.get()), (2, 0));

    let n_seq_max = engine.cache.lose_context(TOO_MANY);
    engine.step(&mut answering);
    assert_eq!((answering.len(), engine.metrics.failed.get()), (0, 2));
    assert_eq!(engine.slots.all(), [Slot::default(), Slot::default()]);
    for heard in [first, second] {
        let Update::Failed(error) = last(heard) else {
            panic!("it has not failed");
        };
        assert!(
            error.to_string().starts_with("cannot compute the answer: "),
            "{error}"
        );
    }
    let refused = last(engine.ask("thrice", &mut answering));
    assert!(
        matches!(refused, Update::Failed(engine::Error::Context { .. })),
        "{refused:?}"
    );
    assert!(answering.is_empty());

    engine.cache.lose_context(n_seq_max); // as when there is memory again
    let heard = engine.ask("thrice", &mut answering);
    while !answering.is_empty() {
        engine.step(&mut answering);
    }
    let Update::Done(outcome) = last(heard) else {
        panic!("it has not ended");
    };
    assert_eq!(outcome.tokens.len(), 8);
}
