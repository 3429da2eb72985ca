//! `visipruner chat`: a conversation about pictures.

mod command;
mod conversation;
mod file;
mod lines;
mod show;

use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use visipruner::engine::{self, Cuts, Outcome, Request, Sampling, Session};
use visipruner::policy::PolicyConfig;
use visipruner::report::RunReport;

use super::answer::{Loaded, ask, say_why_it_ended, show_log};
use super::args::ChatArgs;
use super::args::spec::PolicySpec;
use super::error::Error;
use super::files::{ChosenPolicy, Files};
use super::image::Background;
use super::interrupt::Interrupt;
use super::output;
use super::run::{
    chat_template, model_options, projector_options, sampling, say_about_policy, session_options,
};
use super::terminal::Terminal;
use command::{Command, Input};
use conversation::{Conversation, Picture, Undone};
use lines::Lines;

/// Encoded pictures that are kept, in bytes: a picture of 576 tokens of width 4096 takes 9 MiB.
const PICTURE_CACHE_BYTES: usize = 256 << 20;

/// A conversation at work.
struct Chat {
    files: Files,
    loaded: Loaded,
    session: Session,
    n_predict: Option<usize>,
    sampling: Sampling,
    chat_template: Option<String>,
    background: Background,
    policy_file: Option<PathBuf>,
    /// The policy in force.
    policy: PolicyConfig,
    conversation: Conversation,
    /// What the last answer cost, and the last picture that it saw, unless that was taken back.
    last: Option<(RunReport, Option<Picture>)>,
    terminal: Terminal,
    interrupt: Interrupt,
}

/// Answers messages until there are no more.
///
/// # Errors
/// Flags, files and pictures that cannot be used; standard input and output that fail. What is wrong with a message or a
/// command is told, and the conversation goes on.
pub fn run(args: ChatArgs) -> Result<(), Error> {
    let mut lines = Lines::open()?;
    let mut chat = Chat::begin(args)?;
    if lines.is_terminal() {
        chat.terminal
            .say("/help says which commands there are, Ctrl-D ends the conversation.");
    }
    chat.say_what_waits();
    loop {
        chat.interrupt.rest();
        if chat.interrupt.is_end() {
            return Ok(());
        }
        let Some(line) = lines.next(&mut chat.terminal)? else {
            return Ok(());
        };
        match chat.take(&line) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(()),
            Err(error @ Error::Stdout(_)) => return Err(error),
            Err(error) => {
                chat.terminal.error(&error);
                if error.is_too_long() && !chat.conversation.turns.is_empty() {
                    chat.terminal
                        .say("(the conversation is as it was: /undo and /clear make room in it)");
                }
            }
        }
    }
}

impl Chat {
    /// Checks everything before weights are loaded, then loads them.
    fn begin(args: ChatArgs) -> Result<Self, Error> {
        let mut terminal = Terminal::new(&args.output);
        let background = args.compute.pictures.background;
        let mut conversation = match &args.conversation.load {
            Some(path) => file::load(path, background)?,
            None => Conversation::default(),
        };
        conversation.marker = args.conversation.marker;
        if args.conversation.system_prompt.is_some() {
            conversation.system = args.conversation.system_prompt;
        }
        for path in &args.conversation.images {
            conversation.waiting.push(Picture::read(path, background)?);
        }
        let has_pictures = conversation.pictures().next().is_some();
        let files = Files::open(&args.model, has_pictures, &mut terminal)?;
        let ChosenPolicy { resolved, file } = files.policy(&args.policy)?;
        let policy = resolved.policy.clone();
        if files.projector.is_some() {
            say_about_policy(&ChosenPolicy { resolved, file }, &files, &mut terminal);
        }
        let mut options = session_options(&args.compute, files.model.1.n_ctx_train, &policy);
        options.validate()?;
        let chat_template = args.conversation.chat_template.map(chat_template).transpose()?;

        show_log(args.output.verbose);
        let interrupt = Interrupt::listen();
        let mut projector_options = projector_options(&args.compute);
        projector_options.cache_bytes = PICTURE_CACHE_BYTES;
        let projector = files.projector_path();
        let loaded = Loaded::load(
            (files.model_path(), &model_options(&args.compute)?),
            projector.map(|path| (path, &projector_options)),
            &mut terminal,
            &interrupt,
        )?;
        if loaded.model.supports_pruning().is_ok() {
            options.cuts = Cuts::EveryLayer;
        }
        let session = Session::new(&loaded.model, options)?;
        file::forget_foreign_tokens(&mut conversation, &loaded.model);
        Ok(Self {
            files,
            loaded,
            session,
            n_predict: usize::try_from(args.sampling.n_predict).ok(),
            sampling: sampling(&args.sampling),
            chat_template,
            background,
            policy_file: args.policy.policy_file,
            policy,
            conversation,
            last: None,
            terminal,
            interrupt,
        })
    }

    /// Does what a line asks for, and says whether to go on.
    fn take(&mut self, line: &str) -> Result<ControlFlow<()>, Error> {
        match Input::read(line).map_err(Error::Usage)? {
            Input::Empty => {}
            Input::Message(text) => return self.answer(text),
            Input::Command(Command::Exit) => return Ok(ControlFlow::Break(())),
            Input::Command(command) => self.obey(command)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Answers a message. Where that fails, or is stopped before there is an answer, the conversation is as it was.
    fn answer(&mut self, text: String) -> Result<ControlFlow<()>, Error> {
        let request = Request {
            images: self.conversation.images(),
            n_predict: self.n_predict.unwrap_or(self.session.n_ctx() as usize),
            sampling: self.sampling.clone(),
            chat_template: self.chat_template.clone(),
            policy: Some(self.policy.clone().into()),
            cancel: self.interrupt.renew(),
            ..Request::new(self.conversation.prompt(&text)?)
        };
        let mut is_first = true;
        let mut is_read = true;
        let Outcome {
            text: answer,
            tokens,
            stop,
            report,
            ..
        } = ask(
            &mut self.session,
            self.loaded.projector.as_mut(),
            &request,
            &mut self.terminal,
            |text| {
                // Most tokenizers put a space before the first word.
                let text = if std::mem::take(&mut is_first) {
                    text.trim_start_matches(' ')
                } else {
                    text
                };
                is_read = output::print(text)?;
                Ok(is_read)
            },
        )?;
        let is_stopped_early = tokens.is_empty() && request.cancel.is_cancelled();
        if !is_stopped_early && !answer.ends_with('\n') {
            is_read &= output::print("\n")?;
        }
        if !is_read {
            return Ok(ControlFlow::Break(()));
        }
        if is_stopped_early {
            self.terminal
                .say("(stopped before there was an answer: the message is no part of the conversation)");
            return Ok(ControlFlow::Continue(()));
        }
        say_why_it_ended(stop, &request, self.session.n_ctx(), &mut self.terminal);
        self.terminal.say(show::line(&report));
        self.conversation.answered(text, answer, tokens);
        self.last = Some((report, self.conversation.pictures().next_back().cloned()));
        Ok(ControlFlow::Continue(()))
    }

    fn obey(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Image(None) => self.tell_what_waits(),
            Command::Image(Some(path)) => {
                self.files.require_projector()?;
                self.conversation
                    .waiting
                    .push(Picture::read(&path, self.background)?);
                self.say_what_waits();
            }
            Command::Policy(None) => self.terminal.tell(show::policy(&self.policy)),
            Command::Policy(Some(spec)) => {
                self.policy = self.policy_of(&spec)?;
                self.terminal.say(show::policy(&self.policy));
            }
            Command::Kept => self.terminal.tell(self.kept()),
            Command::Stats => self.terminal.tell(match &self.last {
                Some((report, _)) => show::stats(report),
                None => NOTHING_ANSWERED.to_owned(),
            }),
            Command::Undo => self.undo(),
            Command::Clear => {
                self.conversation.clear();
                self.last = None;
                self.terminal.say("the conversation begins anew");
            }
            Command::Save(path) => {
                file::save(&path, &self.conversation)?;
                let n = self.conversation.turns.len();
                self.terminal
                    .say(format_args!("wrote {n} exchange(s) to {}", path.display()));
            }
            Command::Load(path) => self.load(&path)?,
            Command::Help => self.terminal.tell(command::help()),
            Command::Exit => {}
        }
        Ok(())
    }

    /// A policy with the fields that it has on this model, beginning with the policy file as everywhere.
    fn policy_of(&self, spec: &PolicySpec) -> Result<PolicyConfig, Error> {
        let fields = spec.overrides().map_err(Error::Usage)?;
        let policy = self
            .files
            .policy_from(self.policy_file.as_deref(), &fields)?
            .resolved
            .policy;
        if policy != PolicyConfig::Off && !policy.acts_before_model() {
            self.loaded
                .model
                .supports_pruning()
                .map_err(engine::Error::from)?;
        }
        Ok(policy)
    }

    fn kept(&self) -> String {
        match &self.last {
            None => NOTHING_ANSWERED.to_owned(),
            Some((_, None)) => "the conversation has no picture yet: /image FILE shows one".to_owned(),
            Some((report, Some(picture))) => {
                let i_image = report.image_spans.len().saturating_sub(1);
                show::kept(report, i_image, picture, stderr().is_terminal())
            }
        }
    }

    fn undo(&mut self) {
        match self.conversation.undo() {
            Undone::Nothing => self.terminal.tell("there is nothing to take back"),
            Undone::Pictures(names) => self.terminal.say(format_args!("took back {}", names.join(", "))),
            Undone::Exchange(_) => {
                self.last = None;
                self.terminal.say("took back the last message and its answer");
                self.say_what_waits();
            }
        }
    }

    fn load(&mut self, path: &Path) -> Result<(), Error> {
        let mut conversation = file::load(path, self.background)?;
        if conversation.pictures().next().is_some() {
            self.files.require_projector()?;
        }
        file::forget_foreign_tokens(&mut conversation, &self.loaded.model);
        let n = conversation.turns.len();
        conversation.waiting = std::mem::take(&mut self.conversation.waiting);
        conversation.marker = self.conversation.marker.clone();
        self.conversation = conversation;
        self.last = None;
        self.terminal
            .say(format_args!("read {n} exchange(s) from {}", path.display()));
        Ok(())
    }

    /// Says which pictures wait, if any do.
    fn say_what_waits(&mut self) {
        if let Some(line) = self.what_waits() {
            self.terminal.say(line);
        }
    }

    fn tell_what_waits(&mut self) {
        let none = || "no picture waits for the next message: /image FILE shows one".to_owned();
        let line = self.what_waits().unwrap_or_else(none);
        self.terminal.tell(line);
    }

    fn what_waits(&self) -> Option<String> {
        let names = conversation::names(&self.conversation.waiting);
        (!names.is_empty()).then(|| format!("with the next message: {}", names.join(", ")))
    }
}

const NOTHING_ANSWERED: &str =
    "nothing has been answered since the conversation began, was loaded or was taken back";
