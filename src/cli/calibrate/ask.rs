//! Prompts in the engine: encoded once, then run in one session under whatever is to be tried.

use std::ops::ControlFlow;

use visipruner::calibrate::{Experiment, Observation, Runner, Step, Steps, Switch};
use visipruner::engine::{
    self, EncodedPrompt, Image, Outcome, Prompt, Request, Session, SessionOptions, StopReason,
};
use visipruner::eval;
use visipruner::policy::PolicyConfig;

use super::prompts::{AskedPrompt, Pictures, Prompts};
use crate::cli::answer::Loaded;
use crate::cli::args::CalibrateArgs;
use crate::cli::error::Error;
use crate::cli::image::{self, Background, ImageSource};
use crate::cli::interrupt::Interrupt;
use crate::cli::run::session_options;
use crate::cli::terminal::Terminal;

/// Contexts are a multiple of this long.
const N_CTX_STEP: usize = 256;

/// A model that prompts are run on.
pub struct Asking<'a> {
    prompts: &'a Prompts,
    encoded: Vec<EncodedPrompt>,
    session: Session,
    switch: Switch,
    n_predict: usize,
    terminal: &'a mut Terminal,
    interrupt: &'a Interrupt,
}

impl<'a> Asking<'a> {
    /// Encodes all prompts and sets up the session.
    ///
    /// # Errors
    /// Pictures that cannot be read, prompts that cannot be encoded or do not fit, a model that cannot be pruned, and
    /// [`Error::CalibrationInterrupted`].
    pub fn new(
        args: &CalibrateArgs,
        loaded: &mut Loaded,
        prompts: &'a Prompts,
        (terminal, interrupt): (&'a mut Terminal, &'a Interrupt),
    ) -> Result<Self, Error> {
        loaded
            .model
            .supports_pruning()
            .map_err(visipruner::engine::Error::from)?;
        let options = session_options(
            &args.compute,
            loaded.model.shape().n_ctx_train,
            &PolicyConfig::Off,
        );
        let encoded = encode(
            loaded,
            prompts,
            args.compute.pictures.background,
            (&mut *terminal, interrupt),
        )?;
        let n_predict = args.prompts.n_predict;
        let longest = encoded
            .iter()
            .map(|prompt| prompt.layout().n_rows)
            .max()
            .unwrap_or(0);
        let n_needed = u32::try_from((longest + n_predict).next_multiple_of(N_CTX_STEP)).unwrap_or(u32::MAX);
        let is_open = args.compute.ctx_size.is_none();
        let options = SessionOptions {
            n_ctx: options
                .n_ctx
                .map(|n_ctx| if is_open { n_ctx.min(n_needed) } else { n_ctx }),
            remember: !args.prompts.no_prefix_cache,
            ..options
        };
        let switch = Switch::default();
        let session = Session::with_policy(&loaded.model, options, switch.clone())?;
        Ok(Self {
            prompts,
            encoded,
            session,
            switch,
            n_predict,
            terminal,
            interrupt,
        })
    }

    fn request(&self, experiment: &Experiment) -> Request {
        let n_predict = match experiment {
            Experiment::Hide(_) => 1,
            _ => self.n_predict,
        };
        Request {
            n_predict,
            report_logits: true,
            cancel: self.interrupt.handle(),
            ..Request::new(Prompt::chat(""))
        }
    }
}

impl Runner for Asking<'_> {
    type Error = Error;

    fn run(&mut self, i_prompt: usize, experiment: &Experiment) -> Result<Observation, Error> {
        self.switch.set(experiment.clone());
        let request = self.request(experiment);
        let outcome = self
            .session
            .generate_encoded(&self.encoded[i_prompt], &request, |_| ControlFlow::Continue(()))
            .map_err(|source| self.failed(i_prompt, source.into()))?;
        if outcome.stop == StopReason::Cancelled || self.interrupt.is_pressed() {
            return Err(Error::CalibrationInterrupted);
        }
        let readings = self.switch.take_readings();
        Ok(Observation {
            readings,
            ..observed(outcome, self.encoded[i_prompt].layout().n_vision())
        })
    }

    fn progress(&mut self, steps: Steps) {
        let what = match steps.step {
            Step::Dense => "without pruning",
            Step::Profile => "layer profile",
            Step::Search => "searching",
            Step::Check => "checking",
        };
        self.terminal.steps(what, steps.n_done, steps.n_total);
    }
}

impl Asking<'_> {
    fn failed(&self, i_prompt: usize, source: Error) -> Error {
        Error::Question {
            id: self.prompts.list[i_prompt].name.clone(),
            model: self.session.model().path().display().to_string(),
            source: Box::new(source),
        }
    }
}

fn observed(outcome: Outcome, n_vision: usize) -> Observation {
    let report = outcome.report;
    let n_text = report.n_tokens - n_vision;
    Observation {
        logits: report.logits.unwrap_or_default(),
        answer: outcome.tokens,
        vision_rows: report.layers.iter().map(|layer| layer.rows - n_text).collect(),
        fusion_layer: report.fusion_layer,
        n_kept: report.kept.map(|kept| kept.len()),
        exit_layer: report.exit_layer,
        readings: Vec::new(),
    }
}

/// Every prompt, its pictures encoded.
fn encode(
    loaded: &mut Loaded,
    prompts: &Prompts,
    background: Background,
    (terminal, interrupt): (&mut Terminal, &Interrupt),
) -> Result<Vec<EncodedPrompt>, Error> {
    let mut encoded = Vec::with_capacity(prompts.list.len());
    for (n_done, prompt) in prompts.list.iter().enumerate() {
        terminal.steps("encoding pictures", n_done, prompts.list.len());
        let request = Request {
            images: pictures(prompt, background)?,
            cancel: interrupt.handle(),
            ..Request::new(prompt.prompt.clone())
        };
        let projector = loaded.projector.as_mut();
        let result = engine::encode(&loaded.model, projector, &request, |_| ControlFlow::Continue(()))?;
        let Some(result) = result.filter(|_| !interrupt.is_pressed()) else {
            return Err(Error::CalibrationInterrupted);
        };
        if result.layout().nothing_to_prune().is_some() {
            return Err(Error::Question {
                id: prompt.name.clone(),
                model: loaded.model.path().display().to_string(),
                source: Box::new(Error::CannotCalibrate {
                    n_questions: 1,
                    reason: "its prompt ends in a picture, so that there is no question to judge the picture by",
                }),
            });
        }
        encoded.push(result);
    }
    Ok(encoded)
}

fn pictures(prompt: &AskedPrompt, background: Background) -> Result<Vec<Image>, Error> {
    let read = |source: &eval::ImageSource| match source {
        eval::ImageSource::Path(path) => image::read(&ImageSource::File(path.clone()), background),
        eval::ImageSource::Bytes(bytes) => {
            let name = ImageSource::File(format!("of question {}", prompt.name).into());
            image::from_bytes(bytes, &name, background)
        }
    };
    match &prompt.images {
        Pictures::Read(image) => Ok(vec![image.clone()]),
        Pictures::Files(sources) => Ok(sources.iter().map(read).collect::<Result<_, _>>()?),
    }
}
