//! The flags that choose and set a policy.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use visipruner::policy::budget::{Budget, Budgets};
use visipruner::policy::config::{
    ExitCount, Layer0, PolicyChoice, ShallowMask, Stages, TokensThresholdUnit, VisualSelfAttention,
};
use visipruner::policy::{PolicyError, PolicyOverrides};

/// Parser of a policy's word: the words are listed in the help and in the message for any other.
macro_rules! word {
    ($type:ty) => {
        PossibleValuesParser::new(<$type>::WORDS).try_map(|word| parse_word::<$type>(&word))
    };
}

/// A value of a policy, from its text.
fn parse_word<T: FromStr<Err = PolicyError>>(word: &str) -> Result<T, PolicyError> {
    word.parse()
}

/// What is pruned.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Pruning (layers count from 0)")]
pub struct PolicyArgs {
    /// Prune in three stages as picture and question ask for (visipruner), at given layers (fixed, vtw), by attention
    /// (fastv, pyramiddrop, sparsevlm), before the model (divprune, random, uniform), or not (off). One that acts before
    /// the model can be followed by one of the others: divprune+visipruner [default: visipruner where the model's
    /// thresholds are known, see visipruner info; else off]
    #[arg(long, value_name = "NAME", value_parser = parse_word::<PolicyChoice>)]
    pub policy: Option<PolicyChoice>,

    /// Read the policy's fields from a TOML file; single flags go over it [default: MODEL.policy.toml beside the
    /// model MODEL.gguf, if there is one]
    #[arg(long, value_name = "TOML")]
    pub policy_file: Option<PathBuf>,

    /// Stages to run, separated by commas: shallow, middle, deep; or none
    #[arg(long, value_name = "LIST", value_parser = parse_word::<Stages>)]
    pub stages: Option<Stages>,

    /// Layers below it are shallow, layers above it are searched for the fusion layer
    #[arg(long, value_name = "LAYER", value_parser = count, hide_short_help = true, allow_negative_numbers = true)]
    pub shallow_mid_layer: Option<usize>,

    /// Fusion: the first layer where leaving out one vision token turns the attention output to a cosine below this
    #[arg(
        long,
        value_name = "COSINE",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub layer_threshold: Option<f64>,

    /// Vision tokens that contribute more than this at the fusion layer are kept
    #[arg(
        long,
        value_name = "NORM",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub tokens_threshold: Option<f64>,

    /// Unit of --tokens-threshold: absolute, or relative to the attention output
    #[arg(long, value_name = "UNIT", value_parser = word!(TokensThresholdUnit), hide_short_help = true)]
    pub tokens_threshold_unit: Option<TokensThresholdUnit>,

    /// Exit: a layer counts where leaving out any kept token leaves the cosine at this or above
    #[arg(
        long,
        value_name = "COSINE",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub exit_threshold: Option<f64>,

    /// Exit: after so many counted layers vision is dropped
    #[arg(long, value_name = "N", value_parser = count, hide_short_help = true, allow_negative_numbers = true)]
    pub exit_layers: Option<usize>,

    /// Exit: whether the counted layers must follow each other
    #[arg(long, value_name = "HOW", value_parser = word!(ExitCount), hide_short_help = true)]
    pub exit_count: Option<ExitCount>,

    /// With --stages deep: the layer from which vision is dropped
    #[arg(long, value_name = "LAYER", value_parser = count, hide_short_help = true, allow_negative_numbers = true)]
    pub mid_deep_layer: Option<usize>,

    /// Shallow stage, layer 0: text's weights on vision are merged onto its first token (merge), zeroed on its first
    /// half (half), or left alone (none)
    #[arg(long, value_name = "HOW", value_parser = word!(Layer0), hide_short_help = true)]
    pub layer0: Option<Layer0>,

    /// Shallow stage: text's weights on vision are zeroed after softmax (sink) or masked before it (skip)
    #[arg(long, value_name = "HOW", value_parser = word!(ShallowMask), hide_short_help = true)]
    pub shallow_mask: Option<ShallowMask>,

    /// Shallow stage: whether vision tokens see each other
    #[arg(long, value_name = "HOW", value_parser = word!(VisualSelfAttention), hide_short_help = true)]
    pub visual_self_attention: Option<VisualSelfAttention>,

    /// Forget vision in the shallow layers once the prompt is processed
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        hide_short_help = true
    )]
    pub evict_shallow_kv: Option<bool>,

    /// KV cache: by this layer fusion has come, later layers are allocated for text and --kept-budget vision tokens
    #[arg(long, value_name = "LAYER", value_parser = count, hide_short_help = true, allow_negative_numbers = true)]
    pub latest_fusion_layer: Option<usize>,

    /// KV cache: with --latest-fusion-layer, so many vision tokens are expected to be kept at most [default: 64]
    #[arg(long, value_name = "N", value_parser = count, hide_short_help = true, allow_negative_numbers = true)]
    pub kept_budget: Option<usize>,

    /// --policy fixed: after this layer only --keep vision tokens go on
    #[arg(long, value_name = "LAYER", value_parser = count, allow_negative_numbers = true)]
    pub fusion_layer: Option<usize>,

    /// --policy fastv, pyramiddrop or sparsevlm: layers whose attention ranks the vision tokens, separated by commas
    #[arg(long, value_name = "LAYERS", value_parser = count, value_delimiter = ',', allow_negative_numbers = true)]
    pub rank_layers: Option<Vec<usize>>,

    /// Vision tokens that go on: how many with --policy fixed; one number or share (12.5%) for each of --rank-layers,
    /// separated by commas
    #[arg(long, value_name = "N|P%", value_parser = parse_word::<Budgets>, allow_negative_numbers = true)]
    pub keep: Option<Budgets>,

    /// --policy fixed or vtw: first layer without vision
    #[arg(long, value_name = "LAYER", value_parser = count, allow_negative_numbers = true)]
    pub exit_from: Option<usize>,

    /// --policy divprune, random or uniform: vision tokens that enter the model, as number or share
    #[arg(long, value_name = "N|P%", value_parser = parse_word::<Budget>, allow_negative_numbers = true)]
    pub budget: Option<Budget>,

    /// --policy random: seed of the draw
    #[arg(long, value_name = "N", hide_short_help = true, allow_negative_numbers = true)]
    pub policy_seed: Option<u64>,
}

impl PolicyArgs {
    /// The fields given as flags.
    pub fn overrides(&self) -> PolicyOverrides {
        PolicyOverrides {
            policy: self.policy,
            stages: self.stages,
            shallow_mid_layer: self.shallow_mid_layer,
            layer_threshold: self.layer_threshold,
            tokens_threshold: self.tokens_threshold,
            tokens_threshold_unit: self.tokens_threshold_unit,
            exit_threshold: self.exit_threshold,
            exit_layers: self.exit_layers,
            exit_count: self.exit_count,
            mid_deep_layer: self.mid_deep_layer,
            layer0: self.layer0,
            shallow_mask: self.shallow_mask,
            visual_self_attention: self.visual_self_attention,
            evict_shallow_kv: self.evict_shallow_kv,
            latest_fusion_layer: self.latest_fusion_layer,
            kept_budget: self.kept_budget,
            fusion_layer: self.fusion_layer,
            rank_layers: self.rank_layers.clone(),
            keep: self.keep.clone(),
            exit_from: self.exit_from,
            budget: self.budget,
            policy_seed: self.policy_seed,
        }
    }
}

/// A whole number from 0 on, with a message in words.
pub fn count(value: &str) -> Result<usize, &'static str> {
    value.parse().map_err(|_| "must be a whole number, 0 or more")
}
