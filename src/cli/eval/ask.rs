//! Every question under every policy. A prompt is encoded once, for all of them, and so is a picture for all questions about
//! it that follow each other.

use std::ops::ControlFlow;
use std::time::Instant;

use visipruner::engine::{
    EncodedPrompt, Event, Image, ProjectorOptions, Prompt, Request, Session, SessionOptions, StopReason,
    encode,
};
use visipruner::eval::{self, Question, Record, Store};
use visipruner::policy::PolicyConfig;

use super::equal_cost::{Scales, Target};
use super::plan::ModelPlan;
use crate::cli::answer::Loaded;
use crate::cli::args::EvalArgs;
use crate::cli::error::Error;
use crate::cli::image::{self, Background, ImageSource};
use crate::cli::interrupt::Interrupt;
use crate::cli::run::{model_options, projector_options, session_options};
use crate::cli::terminal::Terminal;

/// Contexts are a multiple of this long.
const N_CTX_STEP: usize = 256;
/// Tokens that a chat template may add to a question.
const N_TEMPLATE: usize = 256;
/// For the pictures encoded last: six of LLaVA-1.5 7B's, 576 tokens of 4096 floats and the pixels. Questions about one
/// picture mostly follow each other.
const PICTURE_CACHE_BYTES: usize = 64 << 20;

/// An evaluation under way.
pub struct Run<'a> {
    pub args: &'a EvalArgs,
    pub questions: &'a [Question],
    pub store: &'a mut Store,
    pub terminal: &'a mut Terminal,
    pub interrupt: &'a Interrupt,
}

/// A policy at work, under its label.
struct Contestant {
    label: String,
    session: Session,
}

/// The picture that was read last: questions about one picture mostly follow each other.
#[derive(Default)]
struct LastPicture(Option<(eval::ImageSource, Image)>);

impl Run<'_> {
    /// Asks one model what it has not answered yet.
    ///
    /// # Errors
    /// What goes wrong in the engine, pictures that cannot be read, a store that cannot be written. Ctrl-C ends it
    /// early, with or without an error.
    pub fn model(&mut self, plan: &mut ModelPlan) -> Result<(), Error> {
        let target = target(self.args);
        if target.is_none() && self.n_open(plan) == 0 {
            return self.introduce(plan);
        }
        let args = self.args;
        let projector = ProjectorOptions {
            cache_bytes: PICTURE_CACHE_BYTES,
            ..projector_options(&args.compute)
        };
        let mut loaded = Loaded::load(
            (plan.files.model.0.path(), &model_options(&args.compute)?),
            plan.files.projector_path().map(|path| (path, &projector)),
            self.terminal,
            self.interrupt,
        )?;
        if let Some(target) = target {
            self.equalise(plan, &mut loaded, &target)?;
        }
        self.introduce(plan)?;
        self.ask_all(plan, &mut loaded)
    }

    /// Answers that a model still owes.
    fn n_open(&self, plan: &ModelPlan) -> usize {
        let labels: Vec<String> = plan.policies.iter().map(|policy| plan.label(policy)).collect();
        let of_question = |question: &Question| {
            labels
                .iter()
                .filter(|label| !self.store.has(&question.id, label))
                .count()
        };
        self.questions.iter().map(of_question).sum()
    }

    fn introduce(&mut self, plan: &ModelPlan) -> Result<(), Error> {
        for policy in &plan.policies {
            self.store.add_policy(&plan.label(policy), &plan.fields(policy))?;
        }
        Ok(())
    }

    /// Finds budgets at equal cost on the first questions.
    fn equalise(&mut self, plan: &mut ModelPlan, loaded: &mut Loaded, target: &Target) -> Result<(), Error> {
        let options = self.options(plan, &PolicyConfig::Off);
        let mut prompts = Vec::new();
        let mut picture = LastPicture::default();
        let with_picture = self
            .questions
            .iter()
            .filter(|question| !question.images.is_empty());
        for question in with_picture.take(self.args.policies.cost_questions) {
            let request = self.request(question, &mut picture)?;
            self.terminal.busy("finding budgets");
            match encoded(loaded, &request)? {
                Some(prompt) => prompts.push(prompt),
                None => return Err(Error::NothingAnswered),
            }
        }
        let mut scales = Scales {
            model: &loaded.model,
            options,
            prompts,
            request: Request {
                n_predict: 1,
                cancel: self.interrupt.handle(),
                ..Request::new(Prompt::chat(""))
            },
            interrupt: self.interrupt,
            terminal: self.terminal,
        };
        let result = scales.equalise(plan, target);
        self.terminal.clear();
        result
    }

    fn ask_all(&mut self, plan: &ModelPlan, loaded: &mut Loaded) -> Result<(), Error> {
        let mut contestants = Vec::new();
        for policy in &plan.policies {
            contestants.push(Contestant {
                label: plan.label(policy),
                session: Session::new(&loaded.model, self.options(plan, &policy.policy))?,
            });
        }
        let (mut n_done, n_open) = (0, self.n_open(plan));
        let mut picture = LastPicture::default();
        for question in self.questions {
            let model = plan.files.model.0.path();
            match self.ask(question, &mut picture, loaded, &mut contestants) {
                Ok(n_answers) => n_done += n_answers,
                Err(source) => {
                    return Err(Error::Question {
                        id: question.id.clone(),
                        model: model.display().to_string(),
                        source: Box::new(source),
                    });
                }
            }
            if self.interrupt.is_pressed() {
                break;
            }
            self.terminal.steps("answering", n_done, n_open);
        }
        self.terminal.clear();
        Ok(())
    }

    /// Asks one question under every policy that has not answered it. Returns the number of answers; it is lower after
    /// Ctrl-C.
    fn ask(
        &mut self,
        question: &Question,
        picture: &mut LastPicture,
        loaded: &mut Loaded,
        contestants: &mut [Contestant],
    ) -> Result<usize, Error> {
        let is_open = |contestant: &&mut Contestant| !self.store.has(&question.id, &contestant.label);
        let mut open: Vec<&mut Contestant> = contestants.iter_mut().filter(is_open).collect();
        if open.is_empty() {
            return Ok(0);
        }
        let request = self.request(question, picture)?;
        let Some(prompt) = encoded(loaded, &request)? else {
            return Ok(0);
        };
        for (n_done, contestant) in open.iter_mut().enumerate() {
            let Some(record) = answer(contestant, question, &prompt, &request)? else {
                return Ok(n_done);
            };
            self.store.add(record)?;
        }
        Ok(open.len())
    }

    fn request(&self, question: &Question, picture: &mut LastPicture) -> Result<Request, Error> {
        let background = self.args.compute.pictures.background;
        let images = question
            .images
            .iter()
            .map(|source| picture.read(source, &question.id, background))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Request {
            images,
            n_predict: self.args.questions.n_predict,
            cancel: self.interrupt.handle(),
            ..Request::new(self.args.questions.marker.chat(&question.prompt))
        })
    }

    /// Sessions for a policy. Every policy has a KV cache, so the context is no longer than the questions need: a token
    /// takes at least one byte of text.
    fn options(&self, plan: &ModelPlan, policy: &PolicyConfig) -> SessionOptions {
        let options = session_options(&self.args.compute, plan.files.model.1.n_ctx_train, policy);
        let Some(n_per_image) = plan.files.n_tokens_per_image() else {
            return SessionOptions {
                remember: !self.args.questions.no_prefix_cache,
                ..options
            };
        };
        let n_tokens = |question: &Question| question.images.len() * n_per_image + question.prompt.len();
        let longest = self.questions.iter().map(n_tokens).max().unwrap_or(0);
        let n_needed = (longest + N_TEMPLATE + self.args.questions.n_predict).next_multiple_of(N_CTX_STEP);
        let n_needed = u32::try_from(n_needed).unwrap_or(u32::MAX);
        let is_open = self.args.compute.ctx_size.is_none();
        SessionOptions {
            n_ctx: options
                .n_ctx
                .map(|n_ctx| if is_open { n_ctx.min(n_needed) } else { n_ctx }),
            // Questions about a picture come one after the other, so one picture at a time is enough.
            n_prefixes: 2,
            remember: !self.args.questions.no_prefix_cache,
            ..options
        }
    }
}

fn encoded(loaded: &mut Loaded, request: &Request) -> Result<Option<EncodedPrompt>, Error> {
    let projector = loaded.projector.as_mut();
    Ok(encode(&loaded.model, projector, request, |_| {
        ControlFlow::Continue(())
    })?)
}

fn target(args: &EvalArgs) -> Option<Target<'_>> {
    let share = args.policies.at_cost.map(Target::Share);
    share.or_else(|| args.policies.equal_cost.as_deref().map(Target::Policy))
}

/// What a policy answers; `None` if Ctrl-C ended it.
fn answer(
    contestant: &mut Contestant,
    question: &Question,
    prompt: &EncodedPrompt,
    request: &Request,
) -> Result<Option<Record>, Error> {
    let began = Instant::now();
    let mut first_token = None;
    let outcome = contestant.session.generate_encoded(prompt, request, |event| {
        if matches!(event, Event::Text(_)) {
            first_token.get_or_insert_with(|| began.elapsed());
        }
        ControlFlow::Continue(())
    })?;
    if outcome.stop == StopReason::Cancelled {
        return Ok(None);
    }
    // An answer without text has no first token but the one that ended it.
    let until_text = first_token.unwrap_or_else(|| began.elapsed());
    // Figures are those of a question that is asked alone, whose picture comes from no cache.
    let saved_ms = prompt.saved_time().as_secs_f64() * 1e3;
    let ttft_ms = saved_ms + (prompt.encode_time() + until_text).as_secs_f64() * 1e3;
    let record = Record::new(&question.id, &contestant.label, ttft_ms, &outcome.report);
    Ok(Some(Record {
        encode_ms: record.encode_ms + saved_ms,
        ..record
    }))
}

impl LastPicture {
    fn read(&mut self, source: &eval::ImageSource, id: &str, background: Background) -> Result<Image, Error> {
        if let Some((last, image)) = &self.0
            && last == source
        {
            return Ok(image.clone());
        }
        let image = match source {
            eval::ImageSource::Path(path) => image::read(&ImageSource::File(path.clone()), background),
            eval::ImageSource::Bytes(bytes) => {
                let name = ImageSource::File(format!("of question {id}").into());
                image::from_bytes(bytes, &name, background)
            }
        }?;
        self.0 = Some((source.clone(), image.clone()));
        Ok(image)
    }
}
