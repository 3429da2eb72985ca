//! The three stages of VisiPruner (Fan et al., EMNLP 2025, arXiv 2510.17205).
//!
//! - Shallow, layers below `k = shallow_mid_layer`: attention to vision is cut down, see [`shallow_attention`].
//! - Middle, layers above `k`: the first layer in which leaving out a single vision token turns the last prompt
//!   token's attention output visibly (`cos(o - c_j, o) < layer_threshold` for any `j`) is the fusion layer. The
//!   tokens with `||c_j|| > tokens_threshold` there go on to the next layer. This happens once.
//! - Deep, layers after the fusion layer: a layer in which no token left matters (`cos >= exit_threshold` for all)
//!   counts; when `exit_layers` have counted, all vision is gone from the next layer on.
//!
//! Where the published code differs from the paper, or has quirks, `docs/pruning.md` says what is done here.

use std::ops::Range;

use super::config::{
    ExitCount, Layer0, ShallowMask, TokensThresholdUnit, VisiPrunerConfig, VisualSelfAttention,
};
use super::{
    Decision, LayerPlan, Outcome, ProbeReading, Reading, Skipped, Stage, StagePolicy, Statistic,
    TextToVision, VisionAttention, VisionIndex, VisionToVision,
};

/// How far the prompt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All vision rows are there, fusion has not been found.
    BeforeFusion,
    /// The kept set is there; so many layers have counted towards the exit.
    AfterFusion { n_counted: usize },
    /// Vision is gone.
    Exited,
}

/// The three stages at work on one prompt.
#[derive(Debug, Clone)]
pub struct VisiPruner {
    config: VisiPrunerConfig,
    n_layer: usize,
    n_vision: usize,
    phase: Phase,
    fusion_layer: Option<usize>,
    n_kept: usize,
    exit_layer: Option<usize>,
    min_cos: Option<f64>,
}

impl VisiPruner {
    /// For a prompt of `n_vision` vision tokens. The configuration must be valid for `n_layer` layers.
    pub fn new(config: VisiPrunerConfig, n_layer: usize, n_vision: usize) -> Self {
        Self {
            config,
            n_layer,
            n_vision,
            phase: Phase::BeforeFusion,
            fusion_layer: None,
            n_kept: n_vision,
            exit_layer: None,
            min_cos: None,
        }
    }

    fn stage(&self, il: usize) -> Stage {
        match self.phase {
            Phase::Exited => Stage::Text,
            Phase::AfterFusion { .. } => Stage::Deep,
            Phase::BeforeFusion if self.config.stages.shallow && il < self.config.shallow_mid_layer => {
                Stage::Shallow
            }
            Phase::BeforeFusion if self.config.stages.middle && il > self.config.shallow_mid_layer => {
                Stage::Middle
            }
            Phase::BeforeFusion => Stage::Dense,
        }
    }

    /// The middle stage's question: is `il` the fusion layer, and if so, which tokens go on?
    fn look_for_fusion(&mut self, il: usize, reading: &ProbeReading) -> Decision {
        let min_cos = reading.cosines().into_iter().fold(f64::INFINITY, f64::min);
        self.min_cos = Some(self.min_cos.map_or(min_cos, |seen| seen.min(min_cos)));
        if min_cos >= self.config.layer_threshold {
            return Decision::KeepAll;
        }
        let kept = kept_set(
            reading,
            self.config.tokens_threshold,
            self.config.tokens_threshold_unit,
        );
        self.fusion_layer = Some(il);
        self.n_kept = kept.len();
        if kept.is_empty() {
            return self.exit(il);
        }
        self.phase = Phase::AfterFusion { n_counted: 0 };
        Decision::Keep(kept)
    }

    /// The deep stage's question: does vision still matter?
    fn look_for_exit(&mut self, il: usize, n_counted: usize, reading: &ProbeReading) -> Decision {
        let counts = reading
            .cosines()
            .iter()
            .all(|&cos| cos >= self.config.exit_threshold);
        let n_counted = match (counts, self.config.exit_count) {
            (true, _) => n_counted + 1,
            (false, ExitCount::Cumulative) => n_counted,
            (false, ExitCount::Consecutive) => 0,
        };
        if n_counted >= self.config.exit_layers {
            return self.exit(il);
        }
        self.phase = Phase::AfterFusion { n_counted };
        Decision::KeepAll
    }

    fn exit(&mut self, il: usize) -> Decision {
        self.phase = Phase::Exited;
        self.exit_layer = Some(il);
        Decision::Keep(Vec::new())
    }

    fn skipped(&self) -> Option<Skipped> {
        let stages = self.config.stages;
        if !stages.middle && !stages.deep {
            return (!stages.shallow).then_some(Skipped::NoStages);
        }
        let il_last = self.n_layer.saturating_sub(1);
        match (self.fusion_layer, self.exit_layer) {
            (Some(il), _) if il < il_last && self.n_kept < self.n_vision => None,
            (_, Some(il)) if il < il_last => None,
            (_, Some(il)) => Some(Skipped::TooLate { il }),
            (Some(il), None) if self.n_kept == self.n_vision => Some(Skipped::AllKept { il }),
            (Some(il), None) => Some(Skipped::TooLate { il }),
            (None, None) => Some(Skipped::NoLayerFired {
                il_first: self.config.shallow_mid_layer.saturating_add(1),
                il_last,
                min_cos: self.min_cos,
                threshold: self.config.layer_threshold,
            }),
        }
    }
}

/// The layers that may begin with other rows than the layer before, or treat vision differently.
pub(super) fn cuts(config: &VisiPrunerConfig, n_layer: usize) -> Vec<usize> {
    let k = config.shallow_mid_layer;
    let attention = |il| {
        if config.stages.shallow && il < k {
            shallow_attention(config, il)
        } else {
            VisionAttention::default()
        }
    };
    let is_cut = |il: usize| {
        attention(il) != attention(il - 1)
            || (config.stages.middle && il - 1 > k)
            || (config.evict_shallow_kv && il == k)
            || scheduled_exit(config) == Some(il - 1)
    };
    (1..n_layer).filter(|&il| is_cut(il)).collect()
}

/// With `deep` alone: the last layer with vision.
fn scheduled_exit(config: &VisiPrunerConfig) -> Option<usize> {
    config
        .mid_deep_layer
        .filter(|_| config.exits_by_layer())
        .and_then(|il| il.checked_sub(1))
}

/// The tokens whose contribution is above the threshold, ascending.
fn kept_set(reading: &ProbeReading, threshold: f64, unit: TokensThresholdUnit) -> Vec<VisionIndex> {
    let norms = match unit {
        TokensThresholdUnit::Absolute => reading.norms(),
        TokensThresholdUnit::Relative => reading.relative_norms(),
    };
    reading
        .tokens
        .iter()
        .zip(norms)
        .filter_map(|(&token, norm)| (norm > threshold).then_some(token))
        .collect()
}

/// What the shallow stage does in layer `il`, which must be below `shallow_mid_layer`.
///
/// Layer 0 follows the published code whatever the mask: `merge` and `half` act after softmax. In the other layers
/// `shallow_mask` chooses the operator, for vision's view of vision as well as for text's.
pub fn shallow_attention(config: &VisiPrunerConfig, il: usize) -> VisionAttention {
    if il == 0 {
        return layer0_attention(config.layer0);
    }
    let remove = config.visual_self_attention == VisualSelfAttention::Remove;
    let (text_to_vision, removed) = match config.shallow_mask {
        ShallowMask::Sink => (TextToVision::Zero, VisionToVision::Zero),
        ShallowMask::Skip => (TextToVision::Mask, VisionToVision::Mask),
    };
    VisionAttention {
        text_to_vision,
        vision_to_vision: if remove { removed } else { VisionToVision::Keep },
    }
}

fn layer0_attention(layer0: Layer0) -> VisionAttention {
    let text_to_vision = match layer0 {
        Layer0::Merge => TextToVision::MergeOntoFirst,
        Layer0::Half => TextToVision::ZeroFirstHalf,
        Layer0::None => return VisionAttention::default(),
    };
    VisionAttention {
        text_to_vision,
        vision_to_vision: VisionToVision::Zero,
    }
}

impl StagePolicy for VisiPruner {
    fn plan(&self, il: usize) -> LayerPlan {
        let stage = self.stage(il);
        let attention = match stage {
            Stage::Shallow => shallow_attention(&self.config, il),
            _ => VisionAttention::default(),
        };
        let is_probed = stage == Stage::Middle || (stage == Stage::Deep && self.config.stages.deep);
        let scheduled = self.phase != Phase::Exited && scheduled_exit(&self.config) == Some(il);
        LayerPlan {
            stage,
            attention,
            probe: is_probed.then_some(Statistic::Contribution),
            decides: is_probed || scheduled,
        }
    }

    fn decide(&mut self, il: usize, reading: Option<&Reading>) -> Decision {
        match (self.phase, reading.and_then(Reading::contribution)) {
            (Phase::BeforeFusion, Some(reading)) => self.look_for_fusion(il, reading),
            (Phase::BeforeFusion, None) if scheduled_exit(&self.config) == Some(il) => self.exit(il),
            (Phase::AfterFusion { n_counted }, Some(reading)) => self.look_for_exit(il, n_counted, reading),
            _ => Decision::KeepAll,
        }
    }

    fn evict_after_prefill(&self) -> Option<Range<usize>> {
        let k = self.config.shallow_mid_layer;
        (self.config.evict_shallow_kv && k > 0).then_some(0..k)
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            fusion_layer: self.fusion_layer,
            exit_layer: self.exit_layer,
            skipped: self.skipped(),
        }
    }
}
