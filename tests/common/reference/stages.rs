//! The stages as the paper's text has them: what is there, what is seen, what is decided.

use super::*;

/// What a row of the prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text before the first image.
    Before,
    /// A vision token, by its index among all of them.
    Vision(usize),
    /// Text after an image.
    After,
}

/// What the shallow stage does to one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    None,
    Merge,
    Half,
    Sink { visual_self_attention: bool },
    Skip { visual_self_attention: bool },
}

impl Operator {
    /// Whether a key is hidden from a query before softmax.
    pub fn masks(self, query: Kind, key: Kind) -> bool {
        let Operator::Skip {
            visual_self_attention,
        } = self
        else {
            return false;
        };
        let is_vision = |kind| matches!(kind, Kind::Vision(_));
        is_vision(key) && (query == Kind::After || is_vision(query) && !visual_self_attention)
    }
}

impl Run<'_> {
    /// The first layer that runs on the kept set.
    pub fn prune_from(&self) -> Option<usize> {
        self.fusion_layer.map(|il| il + 1)
    }

    /// The first layer without vision.
    pub fn exit_from(&self) -> Option<usize> {
        self.exit_layer.map(|il| il + 1)
    }

    /// Cells that each layer holds after the prefill.
    pub fn n_cells(&self) -> Vec<usize> {
        self.layers
            .iter()
            .map(|layer| layer.cells.iter().flatten().count())
            .collect()
    }

    /// Which rows are there in layer `il`, by prompt row.
    pub fn present(&self, il: usize, kinds: &[Kind], rule: &Rule) -> Vec<bool> {
        let tokens = match rule {
            Rule::Present(tokens) => &tokens[il],
            Rule::Policy(_) => &self.vision,
        };
        let row = |kind: &Kind| match kind {
            Kind::Vision(token) => tokens.contains(token),
            Kind::Before | Kind::After => true,
        };
        kinds.iter().map(row).collect()
    }

    pub fn decide(&mut self, il: usize, layer: &LayerRun, rule: &Rule, counted: &mut usize) {
        if layer.tokens.is_empty() {
            return;
        }
        match rule {
            Rule::Present(_) | Rule::Policy(PolicyConfig::Off | PolicyConfig::DivPrune(_)) => {}
            Rule::Policy(PolicyConfig::Fixed(schedule)) => self.decide_fixed(il, layer, schedule),
            Rule::Policy(PolicyConfig::VisiPruner(config)) => self.decide_staged(il, layer, config, counted),
            Rule::Policy(PolicyConfig::FastV(schedule) | PolicyConfig::PyramidDrop(schedule)) => {
                self.decide_ranked(il, layer, schedule);
            }
            Rule::Policy(other) => unimplemented!("{} has its own literal implementation", other.name()),
        }
    }

    fn decide_staged(&mut self, il: usize, layer: &LayerRun, config: &VisiPrunerConfig, counted: &mut usize) {
        let stages = config.stages;
        if stages.deep && !stages.middle && config.mid_deep_layer == Some(il + 1) {
            self.exit(il);
        }
        if !stages.middle || il <= config.shallow_mid_layer || self.exit_layer.is_some() {
            return;
        }
        if self.fusion_layer.is_none() {
            self.note_margin(&one_minus(&layer.cos), 1.0 - config.layer_threshold);
            if layer.cos.iter().any(|&cos| cos < config.layer_threshold) {
                self.note_margin(&layer.norm, config.tokens_threshold * norm_unit(layer, config));
                self.fuse(il, kept(layer, config));
            }
        } else if stages.deep {
            self.note_margin(&one_minus(&layer.cos), 1.0 - config.exit_threshold);
            if layer.cos.iter().all(|&cos| cos >= config.exit_threshold) {
                *counted += 1;
            } else if config.exit_count == ExitCount::Consecutive {
                *counted = 0;
            }
            if *counted == config.exit_layers {
                self.exit(il);
            }
        }
    }

    fn decide_fixed(&mut self, il: usize, layer: &LayerRun, schedule: &Schedule) {
        let exits = il + 1 == schedule.exit_from && il + 1 < self.reference.n_layer;
        if il == schedule.fusion_layer {
            // where the exit follows at once, no token goes on
            let n_kept = if exits { 0 } else { schedule.keep };
            let kept = self.largest(&layer.tokens, &layer.norm, n_kept);
            self.fuse(il, kept);
        }
        if exits && self.exit_layer.is_none() {
            self.exit(il);
        }
    }

    pub fn note_margin(&mut self, statistics: &[f64], threshold: f64) {
        for x in statistics {
            let scale = x.abs().max(threshold.abs()).max(f64::MIN_POSITIVE);
            self.margin = self.margin.min((x - threshold).abs() / scale);
        }
    }

    fn fuse(&mut self, il: usize, kept: Vec<usize>) {
        self.fusion_layer = Some(il);
        if kept.is_empty() {
            self.exit(il);
        } else {
            self.keep(Some(il), kept.clone());
        }
        self.kept = Some(kept);
    }

    pub fn exit(&mut self, il: usize) {
        self.exit_layer = Some(il);
        self.keep(Some(il), Vec::new());
    }

    /// Only these tokens go on after a layer, or enter the first.
    pub fn keep(&mut self, after: Option<usize>, tokens: Vec<usize>) {
        let is_last = after.is_some_and(|il| il + 1 == self.reference.n_layer);
        if tokens.len() < self.vision.len() && !is_last {
            self.drops.push((after, tokens.clone()));
        }
        self.vision = tokens;
    }

    pub fn evict_shallow(&mut self, kinds: &[Kind], rule: &Rule) {
        let n_evicted = match rule {
            Rule::Policy(PolicyConfig::VisiPruner(config)) if config.evict_shallow_kv => {
                config.shallow_mid_layer
            }
            Rule::Policy(PolicyConfig::Fixed(schedule)) if schedule.evict_shallow_kv => {
                schedule.shallow_mid_layer
            }
            _ => 0,
        };
        for layer in &mut self.layers[..n_evicted] {
            for (cell, kind) in layer.cells.iter_mut().zip(kinds) {
                if matches!(kind, Kind::Vision(_)) {
                    *cell = None;
                }
            }
        }
    }
}

/// `{ j : norm_j > tokens_threshold }`
pub fn kept(layer: &LayerRun, config: &VisiPrunerConfig) -> Vec<usize> {
    let is_kept = |&i: &usize| layer.norm[i] > config.tokens_threshold * norm_unit(layer, config);
    (0..layer.tokens.len())
        .filter(is_kept)
        .map(|i| layer.tokens[i])
        .collect()
}

pub fn norm_unit(layer: &LayerRun, config: &VisiPrunerConfig) -> f64 {
    match config.tokens_threshold_unit {
        TokensThresholdUnit::Absolute => 1.0,
        TokensThresholdUnit::Relative => layer.output_norm,
    }
}

pub fn one_minus(cos: &[f64]) -> Vec<f64> {
    cos.iter().map(|cos| 1.0 - cos).collect()
}

pub fn kinds(layout: &PromptLayout) -> Vec<Kind> {
    let mut kinds = vec![Kind::Before; layout.n_rows];
    let mut token = 0;
    for Range { start, end } in layout.vision.clone() {
        for kind in &mut kinds[start..end] {
            *kind = Kind::Vision(token);
            token += 1;
        }
        kinds[end..].fill(Kind::After);
    }
    kinds
}

pub fn operator(rule: &Rule, il: usize) -> Operator {
    let Rule::Policy(PolicyConfig::VisiPruner(config)) = rule else {
        return Operator::None;
    };
    if !config.stages.shallow || il >= config.shallow_mid_layer {
        return Operator::None;
    }
    if il == 0 {
        return match config.layer0 {
            Layer0::Merge => Operator::Merge,
            Layer0::Half => Operator::Half,
            Layer0::None => Operator::None,
        };
    }
    let visual_self_attention = config.visual_self_attention == VisualSelfAttention::Keep;
    match config.shallow_mask {
        ShallowMask::Sink => Operator::Sink {
            visual_self_attention,
        },
        ShallowMask::Skip => Operator::Skip {
            visual_self_attention,
        },
    }
}

/// What the shallow stage does to the weights of query `i` after softmax.
pub fn operate(a: &mut [f64], i: usize, kinds: &[Kind], operator: Operator) {
    let vision: Vec<usize> = (0..kinds.len())
        .filter(|&row| matches!(kinds[row], Kind::Vision(_)))
        .collect();
    let zeroed: &[usize] = match (operator, kinds[i]) {
        (Operator::Merge | Operator::Half, Kind::Vision(_)) => &vision,
        (Operator::Merge, Kind::After) => {
            let sum = vision.iter().map(|&j| a[j]).sum();
            vision.iter().for_each(|&j| a[j] = 0.0);
            a[vision[0]] = sum;
            &[]
        }
        (Operator::Half, Kind::After) => &vision[..vision.len() / 2],
        (Operator::Sink { .. }, Kind::After) => &vision,
        (
            Operator::Sink {
                visual_self_attention: false,
            },
            Kind::Vision(_),
        ) => &vision,
        _ => &[],
    };
    zeroed.iter().for_each(|&j| a[j] = 0.0);
}
