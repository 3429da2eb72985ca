//! What is compared: the policies of each model, with their names.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use visipruner::eval::sweep::{self, Sweep};
use visipruner::eval::{Question, QuestionFile, Settings, file_hash};
use visipruner::hub::Source;
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::{PolicyChoice, PolicyName};

use crate::cli::args::EvalArgs;
use crate::cli::args::eval::{PoliciesArgs, QuestionArgs};
use crate::cli::args::spec::PolicySpec;
use crate::cli::error::Error;
use crate::cli::files::Files;
use crate::cli::paths::{self, Paths};
use crate::cli::terminal::Terminal;

/// Every model with its policies.
pub struct Plan {
    /// In the order given.
    pub models: Vec<ModelPlan>,
}

/// A model and what is asked of it.
pub struct ModelPlan {
    /// Its files, read as far as their headers.
    pub files: Files,
    /// What tells it from the other models; empty if there is no other.
    pub name: String,
    /// The policies, in the order in which they answer. Labels are unique.
    pub policies: Vec<Candidate>,
}

/// A policy under its name.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The line that it is on in a curve.
    pub series: String,
    /// What sets it apart on that line: swept fields, a budget that was found.
    pub note: String,
    /// What was asked for.
    pub spec: PolicySpec,
    /// With every field in force.
    pub policy: PolicyConfig,
}

impl Plan {
    /// The policies that the flags ask for, checked against each model.
    ///
    /// # Errors
    /// Files that are no models, policies that do not fit them, and flags that contradict each other.
    pub fn new(args: &EvalArgs, questions: &[Question], terminal: &mut Terminal) -> Result<Self, Error> {
        let has_pictures = questions.iter().any(|question| !question.images.is_empty());
        let mut models: Vec<ModelPlan> = Vec::new();
        let all = paths(args, terminal)?;
        let n_models = all.len();
        for paths in all {
            if has_pictures {
                paths.require_projector()?;
            }
            let files = Files::read(paths)?;
            let policies = candidates(&args.policies, &files, terminal)?;
            let name = if n_models > 1 {
                stem(files.model_path())
            } else {
                String::new()
            };
            if models.iter().any(|other| other.name == name) {
                return Err(Error::Usage(format!(
                    "two models are called {name}: their answers could not be told apart, rename one of the files"
                )));
            }
            let model = ModelPlan {
                files,
                name,
                policies,
            };
            if let Some(label) = &args.policies.equal_cost {
                model.called(label)?;
            }
            models.push(model);
        }
        Ok(Self { models })
    }

    /// The label of every policy of every model.
    pub fn labels(&self) -> Vec<String> {
        let of_model = |model: &ModelPlan| -> Vec<String> {
            let label = |candidate| model.label(candidate);
            model.policies.iter().map(label).collect()
        };
        self.models.iter().flat_map(of_model).collect()
    }
}

/// The files of every model. One projector serves all: they are quantizations of one model.
fn paths(args: &EvalArgs, terminal: &mut Terminal) -> Result<Vec<Paths>, Error> {
    let mut projector = args.mmproj.clone();
    let mut fetched = Vec::new();
    for repo in &args.hf_repos {
        let source = Source::parse(repo)?;
        let paths = paths::fetch(&source, projector.clone(), &args.hub, terminal)?;
        projector.clone_from(&paths.projector);
        fetched.push(paths);
    }
    let local = args
        .models
        .iter()
        .map(|model| Paths::new(model.clone(), projector.clone()));
    Ok(local.chain(fetched).collect())
}

impl ModelPlan {
    /// What a policy is called in store and tables.
    pub fn label(&self, candidate: &Candidate) -> String {
        joined([&self.name, &candidate.series, &candidate.note])
    }

    /// What a policy is called on a curve, without its swept fields.
    pub fn series(&self, candidate: &Candidate) -> String {
        joined([&self.name, &candidate.series, ""])
    }

    /// What the store keeps about a policy: everything that its answers depend on beside the settings.
    pub fn fields(&self, candidate: &Candidate) -> Value {
        let path = self.files.model.0.path();
        json!({"model": file_facts(path), "fields": candidate.policy})
    }

    /// The policy of that name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the names that there are.
    pub fn called(&self, name: &str) -> Result<&Candidate, Error> {
        let names = || self.policies.iter().map(Candidate::name);
        let found = self.policies.iter().find(|candidate| candidate.name() == name);
        found.ok_or_else(|| {
            let known = names().collect::<Vec<_>>().join(", ");
            Error::Usage(format!(
                "--equal-cost {name:?} is none of the policies that are asked: {known}"
            ))
        })
    }
}

impl Candidate {
    /// What it is called beside the other policies of its model.
    pub fn name(&self) -> String {
        joined([&self.series, &self.note, ""])
    }
}

fn joined(parts: [&str; 3]) -> String {
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

/// What answers depend on beside model and policy. Files are known by their content: folders may move.
///
/// # Errors
/// A file that cannot be read.
pub fn settings(args: &EvalArgs, plan: &Plan) -> Result<Settings, Error> {
    let projector = plan.models.first().and_then(|model| model.files.projector_path());
    let compute = &args.compute;
    let settings = [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("questions", json!(file_hash(&args.questions.questions)?)),
        ("mmproj", projector.map_or(Value::Null, file_facts)),
        ("n_predict", json!(args.questions.n_predict)),
        ("image_marker", json!(args.questions.marker.image_marker)),
        ("background", json!(compute.pictures.background.to_string())),
        (
            "image_min_tokens",
            json!(compute.pictures.tokens.image_min_tokens),
        ),
        (
            "image_max_tokens",
            json!(compute.pictures.tokens.image_max_tokens),
        ),
        (
            "vision_encoder",
            json!(compute.pictures.vision_encoder.to_string()),
        ),
        ("flash_attn", json!(compute.flash_attn.to_string())),
        ("cache_type_k", json!(compute.cache_type_k.to_string())),
        ("cache_type_v", json!(compute.cache_type_v.to_string())),
    ];
    Ok(BTreeMap::from(
        settings.map(|(name, value)| (name.to_owned(), value)),
    ))
}

/// Name and size: hashing gigabytes at every start would take longer than many a run.
fn file_facts(path: &Path) -> Value {
    let n_bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    json!({"file": name, "bytes": n_bytes})
}

/// What to read, as the flags say it.
pub fn question_file(args: &QuestionArgs) -> QuestionFile {
    QuestionFile {
        questions: args.questions.clone(),
        format: args.format,
        image_dir: args.image_dir.clone(),
        annotations: args.annotations.clone(),
        without_answers: false,
        scoring: args.scoring,
    }
}

/// The policies for one model: those asked for, or its own; `off` before them.
fn candidates(args: &PoliciesArgs, files: &Files, terminal: &mut Terminal) -> Result<Vec<Candidate>, Error> {
    let of_files = args.policy_files.iter().cloned().map(PolicySpec::of_file);
    let mut specs: Vec<PolicySpec> = args.policies.iter().cloned().chain(of_files).collect();
    let off = PolicySpec {
        choice: Some(PolicyName::Off.into()),
        ..PolicySpec::of_model()
    };
    if specs.is_empty() {
        specs.push(PolicySpec::of_model());
    }
    if !args.no_off && !specs.contains(&off) {
        specs.insert(0, off);
    }
    let mut all: Vec<Candidate> = Vec::new();
    let mut unused: Vec<&Sweep> = args.sweeps.iter().collect();
    for spec in &specs {
        for candidate in swept(spec, &args.sweeps, &mut unused, files)? {
            match all.iter().find(|other| other.name() == candidate.name()) {
                None => all.push(candidate),
                Some(_) if *spec == PolicySpec::of_model() => terminal.say(
                    "hint: no pruning thresholds are known for this model, so it is asked without pruning only; name \
                     policies with --policy",
                ),
                Some(other) => {
                    return Err(Error::Usage(format!(
                        "the policy {:?} is asked for twice",
                        other.name()
                    )));
                }
            }
        }
    }
    if let Some(sweep) = unused.first() {
        return Err(Error::Usage(format!(
            "--sweep {}: none of the policies has this field",
            sweep.field
        )));
    }
    Ok(all)
}

/// A policy once for each combination of the sweeps whose fields it has.
fn swept<'a>(
    spec: &PolicySpec,
    sweeps: &'a [Sweep],
    unused: &mut Vec<&'a Sweep>,
    files: &Files,
) -> Result<Vec<Candidate>, Error> {
    // Fields that are swept need not have values that fit without the sweep, so a policy with a name is not built yet.
    let name = match spec.choice {
        Some(name) => name,
        None => candidate(spec, String::new(), String::new(), files)?
            .policy
            .name(),
    };
    let names: Vec<PolicyName> = name.parts().collect();
    let is_ours = |sweep: &Sweep| {
        names
            .iter()
            .any(|name| name.fields().contains(&sweep.field.as_str()))
    };
    let ours: Vec<Sweep> = sweeps.iter().filter(|sweep| is_ours(sweep)).cloned().collect();
    unused.retain(|sweep| !is_ours(sweep));
    let is_swept = |field: &String| ours.iter().any(|sweep| sweep.field == *field);
    let mut fixed = spec.clone();
    fixed.fields.retain(|(field, _)| !is_swept(field));
    let series = series(&fixed, name);
    sweep::points(&ours)?
        .iter()
        .map(|point| candidate(&spec.with(&point.fields), series.clone(), point.label(), files))
        .collect()
}

/// A policy with the fields that it has on this model.
///
/// # Errors
/// Fields that it does not have, or that do not fit the model.
pub fn candidate(spec: &PolicySpec, series: String, note: String, files: &Files) -> Result<Candidate, Error> {
    let fields = spec.overrides().map_err(Error::Usage)?;
    let policy = files.policy_from(spec.file.as_deref(), &fields)?.resolved.policy;
    Ok(Candidate {
        series,
        note,
        spec: spec.clone(),
        policy,
    })
}

/// `fastv rank_layers=1 keep=25%`, or the name of a policy file.
pub fn series(spec: &PolicySpec, policy: PolicyChoice) -> String {
    let name = match &spec.file {
        Some(path) => stem(path).trim_end_matches(".policy").to_owned(),
        None => policy.to_string(),
    };
    let fields = spec
        .fields
        .iter()
        .map(|(field, value)| format!("{field}={value}"));
    [name].into_iter().chain(fields).collect::<Vec<_>>().join(" ")
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
