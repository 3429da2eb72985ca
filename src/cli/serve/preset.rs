//! Models in a TOML file: a section each, whose keys are flags, and `["*"]` for what holds for all.
//!
//! ```toml
//! ["*"]
//! ctx-size = 8192
//!
//! [llava]
//! model = "llava.gguf"
//! mmproj = "mmproj.gguf"
//! policy = "visipruner"
//! stages = ["middle", "deep"]
//! ```

use std::ffi::OsString;
use std::path::Path;

use toml::{Table, Value};

use super::super::args::{EachArgs, HubArgs, ModelArgs, PresetArgs};
use super::super::error::Error;
use super::super::files::read_text;
use super::super::paths::{self, Paths};
use super::super::terminal::Terminal;
use super::Served;

/// The section that holds for all.
const ALL: &str = "*";

/// What a model cannot have by itself.
const OF_THE_SERVER: &[&str] = &["background"];

/// What holds where a file does not say otherwise.
pub struct Given<'a> {
    /// Models that there are without it.
    pub models: Vec<(String, Paths)>,
    /// How models are downloaded.
    pub hub: &'a HubArgs,
    /// Flags for each model.
    pub each: &'a EachArgs,
}

/// The models of a file, and those that there are without it.
///
/// # Errors
/// [`Error::ReadPresets`] for a file that cannot be read as one; [`Error::Preset`] for a model whose keys cannot be used or that
/// has no files.
pub fn models(path: &Path, given: Given<'_>, terminal: &mut Terminal) -> Result<Vec<Served>, Error> {
    let unreadable = |reason: String| Error::ReadPresets {
        path: path.to_owned(),
        reason,
    };
    let text = read_text(path).map_err(|error| unreadable(error.to_string()))?;
    let mut sections: Table = text
        .parse()
        .map_err(|error: toml::de::Error| unreadable(in_words(&error)))?;
    let all = match sections.remove(ALL) {
        None => Table::new(),
        Some(Value::Table(all)) => all,
        Some(_) => return Err(unreadable(format!("[{ALL:?}] is no table"))),
    };
    for (id, _) in &given.models {
        sections
            .entry(id.clone())
            .or_insert_with(|| Value::Table(Table::new()));
    }
    if sections.is_empty() {
        return Err(unreadable(
            "it names no model: begin a section [NAME] for each".to_owned(),
        ));
    }
    let mut served = Vec::new();
    for (id, section) in sections {
        let Value::Table(own) = section else {
            return Err(unreadable(format!(
                "{id} is in no section: begin one, [NAME], for each model"
            )));
        };
        let keys: Table = all.clone().into_iter().chain(own).collect();
        let model = one_model(&id, &keys, &given, terminal);
        served.push(model.map_err(|source| Error::Preset {
            path: path.to_owned(),
            model: id,
            source: Box::new(source),
        })?);
    }
    Ok(served)
}

fn one_model(id: &str, keys: &Table, given: &Given<'_>, terminal: &mut Terminal) -> Result<Served, Error> {
    let mut flags = flags(keys)?;
    if !keys.contains_key("model") && !keys.contains_key("hf-repo") {
        let known = given.models.iter().find(|(known, _)| known == id);
        let (_, paths) = known.ok_or_else(|| Error::Usage("it has neither model nor hf-repo".to_owned()))?;
        flags.push(path_flag("model", &paths.model));
        if let Some(projector) = paths.projector.as_ref().filter(|_| !keys.contains_key("mmproj")) {
            flags.push(path_flag("mmproj", projector));
        }
    }
    let mut preset = PresetArgs {
        files: ModelArgs {
            hub: given.hub.clone(),
            ..ModelArgs::default()
        },
        each: given.each.clone(),
    };
    preset
        .set(flags)
        .map_err(|error| Error::Usage(Error::usage_line(&error)))?;
    Ok(Served {
        id: id.to_owned(),
        paths: paths::find(&preset.files, terminal)?,
        each: preset.each,
    })
}

fn flags(keys: &Table) -> Result<Vec<OsString>, Error> {
    let flag = |(key, value): (&String, &Value)| {
        if OF_THE_SERVER.contains(&key.as_str()) {
            return Err(Error::Usage(format!("{key} holds for all models: give --{key}")));
        }
        let value = word(value).ok_or_else(|| Error::Usage(format!("{key} is not what a flag can be")))?;
        Ok(format!("--{key}={value}").into())
    };
    keys.iter().map(flag).collect()
}

/// A value as it is written behind a flag.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Some(value.to_string()),
        Value::Array(list) => {
            let words: Option<Vec<_>> = list.iter().map(word).collect();
            Some(words?.join(","))
        }
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

fn path_flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(path);
    flag
}

/// Without the excerpt that toml shows below.
fn in_words(error: &toml::de::Error) -> String {
    let line = error.to_string();
    let place = line.lines().next().unwrap_or_default();
    format!(
        "{}: {}",
        place.trim_start_matches("TOML parse error "),
        error.message()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::args::{Cli, Command, OutputArgs};
    use super::super::super::error::in_one_line;
    use super::*;

    /// The models of a file, with what a command line says beside it.
    fn models_of(text: &str, line: &[&str]) -> Result<Vec<Served>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("models.toml");
        std::fs::write(&path, text).expect("writes");
        let line = [&["visipruner", "serve", "--models-preset", "models.toml"], line].concat();
        let Command::Serve(args) = Cli::try_parse_from(line).expect("is a command line").command else {
            panic!("serve was asked for");
        };
        let given = Given {
            models: vec![(
                "there".to_owned(),
                Paths::new("there.gguf".into(), Some("mmproj.gguf".into())),
            )],
            hub: &args.model.files.hub,
            each: &args.each,
        };
        let models = models(&path, given, &mut Terminal::new(&OutputArgs::default()));
        models.map_err(|error| in_one_line(&error).replace(&folder.path().display().to_string(), "."))
    }

    #[test]
    fn a_section_goes_over_that_of_all_and_that_over_the_command_line() {
        let text = r#"
            ["*"]
            ctx-size = 1024
            no-mmap = false

            [there]
            parallel = 2

            [own]
            model = "own.gguf"
            ctx-size = 512
            policy = "visipruner"
            stages = ["middle", "deep"]
            layer-threshold = -0.5
            chat-template = "{{ messages }}"
        "#;
        let line = [
            "--ctx-size",
            "99",
            "--parallel",
            "7",
            "--no-mmap",
            "--mlock",
            "--cache-type-k",
            "q8_0",
        ];
        let models = models_of(text, &line).expect("nothing is wrong");
        let told = |served: &Served| {
            let (each, compute) = (&served.each, &served.each.compute);
            (
                format!(
                    "{} {} {:?}",
                    served.id,
                    served.paths.model.display(),
                    served.paths.projector
                ),
                (
                    each.parallel,
                    each.cache_ram,
                    compute.ctx_size,
                    compute.batch_size,
                ),
                (
                    compute.no_mmap,
                    compute.mlock,
                    format!("{:?}", compute.cache_type_k),
                ),
            )
        };
        assert_eq!(
            models.iter().map(told).collect::<Vec<_>>(),
            [
                (
                    "own own.gguf None".to_owned(),
                    (7, 8192, Some(512), 2048),
                    (false, true, "Q8_0".to_owned())
                ),
                (
                    "there there.gguf Some(\"mmproj.gguf\")".to_owned(),
                    (2, 8192, Some(1024), 2048),
                    (false, true, "Q8_0".to_owned())
                ),
            ]
        );
        let own = &models[0].each;
        assert_eq!(own.chat_template.as_deref(), Some("{{ messages }}"));
        let expected = "policy = 'visipruner'\nstages = ['middle', 'deep']\nlayer_threshold = -0.5";
        let expected = visipruner::policy::PolicyOverrides::from_toml(expected).expect("is a policy");
        assert_eq!(own.policy.overrides(), expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_section() {
        for (text, reason) in [
            (
                "[a",
                "cannot read the models in ./models.toml: at line 1, column 3: ",
            ),
            (
                "a = 1",
                "cannot read the models in ./models.toml: a is in no section",
            ),
            (
                "[a]",
                "cannot serve [a] of ./models.toml: it has neither model nor hf-repo",
            ),
            (
                "[there]\nctx-size = 'x'",
                "cannot serve [there] of ./models.toml: invalid value 'x' for '--ctx-size <N>'",
            ),
            (
                "[there]\nparallel = 65",
                "invalid value '65' for '--parallel <N>'",
            ),
            ("[there]\nctx = 5", "unexpected argument '--ctx' found"),
            ("[there]\nport = 80", "unexpected argument '--port' found"),
            ("[there]\nctx-size = {}", "ctx-size is not what a flag can be"),
            (
                "[there]\npolicy = 'none such'",
                "invalid value 'none such' for '--policy <NAME>'",
            ),
            (
                "[there]\nbackground = 'black'",
                "background holds for all models: give --background",
            ),
            (
                "[there]\nmodel = 'a'\nhf-repo = 'u/r'",
                "cannot be used with '--model <GGUF>'",
            ),
        ] {
            let error = models_of(text, &[]).err().expect("something is wrong");
            assert!(error.contains(reason), "{error}");
        }
    }
}
