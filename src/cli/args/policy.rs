//! The flags that choose and set a policy.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use visipruner::policy::config::{Field, FieldKind, PolicyChoice};
use visipruner::policy::{PolicyError, PolicyOverrides};

/// What is pruned.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Pruning (layers count from 0)")]
pub struct PolicyArgs {
    /// Prune in three stages as picture and question ask for (visipruner), at given layers (fixed, vtw), by attention
    /// (fastv, pyramiddrop, sparsevlm), before the model (divprune, random, uniform), or not (off; dense_staged:
    /// in the batches of the others, to compare with). One that acts before the model can be followed by one of the
    /// others: divprune+visipruner [default: visipruner where the model's thresholds are known, see visipruner info;
    /// else off]
    #[arg(long, value_name = "NAME", value_parser = str::parse::<PolicyChoice>)]
    pub policy: Option<PolicyChoice>,

    /// Read the policy's fields from a TOML file; single flags go over it [default: MODEL.policy.toml beside the
    /// model MODEL.gguf, if there is one]
    #[arg(long, value_name = "TOML")]
    pub policy_file: Option<PathBuf>,

    /// Single fields.
    #[command(flatten)]
    pub fields: FieldArgs,
}

impl PolicyArgs {
    /// The fields given as flags.
    pub fn overrides(&self) -> PolicyOverrides {
        PolicyOverrides {
            policy: self.policy,
            ..self.fields.0.clone()
        }
    }
}

/// A flag for each field that some policy has.
#[derive(Debug, Clone, Default)]
pub struct FieldArgs(PolicyOverrides);

impl Args for FieldArgs {
    fn augment_args(command: Command) -> Command {
        command.args(Field::ALL.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FieldArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for field in Field::ALL {
            let Some(values) = matches.get_many::<String>(field.name) else {
                continue;
            };
            let value = values.map(String::as_str).collect::<Vec<_>>().join(",");
            let invalid = |error: PolicyError| clap::Error::raw(ErrorKind::ValueValidation, error);
            self.0.set(field.name, &value).map_err(invalid)?;
        }
        Ok(())
    }
}

/// The flag of a field: `exit_from` is set with `--exit-from`.
pub fn flag_name(field: &str) -> String {
    format!("--{}", field.replace('_', "-"))
}

fn flag(field: &'static Field) -> Arg {
    let flag = Arg::new(field.name)
        .long(field.name.replace('_', "-"))
        .value_name(field.value_name)
        .help(with_flags(field.help))
        .hide_short_help(field.is_detail)
        .action(ArgAction::Set);
    match field.kind {
        FieldKind::Word(words) => flag.value_parser(PossibleValuesParser::new(words)),
        FieldKind::Switch => flag
            .value_parser(PossibleValuesParser::new(["true", "false"]))
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_possible_values(true),
        FieldKind::WholeList => flag
            .action(ArgAction::Append)
            .value_parser(checked(field))
            .allow_negative_numbers(true),
        _ => flag.value_parser(checked(field)).allow_negative_numbers(true),
    }
}

/// Leaves a value as it is written, if the field takes it.
fn checked(field: &'static Field) -> impl Fn(&str) -> Result<String, PolicyError> + Clone {
    |value: &str| {
        let mut field_alone = PolicyOverrides::default();
        field_alone.set(field.name, value)?;
        Ok(value.to_owned())
    }
}

/// The help of a field, with flags for the fields that it names.
fn with_flags(help: &str) -> String {
    let parts = help.trim_start().split('`').enumerate();
    let in_words = parts.map(|(i, part)| match i % 2 {
        0 => part.to_owned(),
        _ => flag_name(part),
    });
    in_words.collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        policy: PolicyArgs,
    }

    fn overrides(flags: &[&str]) -> Result<PolicyOverrides, clap::Error> {
        let line = Line::try_parse_from([&["visipruner"], flags].concat())?;
        Ok(line.policy.overrides())
    }

    /// Each against the policy file that says the same.
    #[test]
    fn every_kind_of_field_has_a_flag() {
        for (flags, file) in [
            (
                &["--stages", "shallow,deep", "--mid-deep-layer=3"][..],
                "stages = ['shallow', 'deep']\nmid_deep_layer = 3",
            ),
            (
                &["--layer-threshold", "-0.5", "--layer0", "half"],
                "layer_threshold = -0.5\nlayer0 = 'half'",
            ),
            (&["--evict-shallow-kv"], "evict_shallow_kv = true"),
            (&["--evict-shallow-kv=false"], "evict_shallow_kv = false"),
            (
                &["--rank-layers", "1,4", "--keep", "50%,16"],
                "rank_layers = [1, 4]\nkeep = ['50%', 16]",
            ),
            (
                &["--rank-layers", "1", "--rank-layers", "4"],
                "rank_layers = [1, 4]",
            ),
            (
                &["--budget", "9.8%", "--policy-seed", "7"],
                "budget = '9.8%'\npolicy_seed = 7",
            ),
            (
                &["--policy", "vtw", "--exit-from", "3"],
                "policy = 'vtw'\nexit_from = 3",
            ),
        ] {
            let expected = PolicyOverrides::from_toml(file).unwrap();
            assert_eq!(overrides(flags).unwrap(), expected, "{flags:?}");
        }
    }

    #[test]
    fn values_that_no_policy_takes_are_refused_with_flag_and_reason() {
        for (flags, reason) in [
            (["--exit-from", "-1"], "a whole number, 0 or more"),
            (["--rank-layers", "3,x"], "whole numbers, 0 or more"),
            (["--layer-threshold", "x"], "a number"),
            (["--keep", "many"], "is not a budget"),
            (["--exit-count", "x"], "cumulative, consecutive"),
        ] {
            let error = overrides(&flags).unwrap_err().to_string();
            assert!(error.contains(flags[0]) && error.contains(reason), "{error}");
        }
    }
}
