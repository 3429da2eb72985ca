//! Policies to compare implementations with: every combination of stages, with thresholds that are taken from
//! the statistics of the prompt at hand, so that fusion and exit happen and no decision hangs on rounding.

use visipruner::policy::config::{
    ExitCount, Layer0, ShallowMask, Stages, TokensThresholdUnit, VisiPrunerConfig, VisualSelfAttention,
};
use visipruner::policy::{PolicyConfig, PromptLayout};

use super::reference::{Input, LayerRun, Reference, Rule, Run};

/// A policy, and what must come of it.
pub struct Case {
    pub name: String,
    pub policy: PolicyConfig,
    pub expected: Expected,
}

/// Which events a case is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub fusion: bool,
    pub exit: bool,
}

/// A prompt to make cases for.
pub struct Subject<'a> {
    pub reference: &'a Reference,
    pub prompt: &'a [Input],
    pub layout: &'a PromptLayout,
    /// Layers below it are shallow.
    pub shallow_mid_layer: usize,
    /// Vision tokens that a tuned policy keeps.
    pub n_keep: usize,
}

const NOTHING: Stages = Stages {
    shallow: false,
    middle: false,
    deep: false,
};

impl Subject<'_> {
    pub fn run(&self, config: &VisiPrunerConfig) -> Run<'_> {
        let rule = Rule::Policy(PolicyConfig::VisiPruner(config.clone()));
        self.reference.run(self.prompt, self.layout, &rule)
    }

    /// Every combination of stages, with every variant of the shallow stage.
    pub fn every_combination(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let deeper = |stages: Stages| {
            let deep_only = Stages { deep: true, ..stages };
            let middle_only = Stages {
                middle: true,
                ..stages
            };
            [
                stages,
                middle_only,
                Stages {
                    middle: true,
                    ..deep_only
                },
                deep_only,
            ]
        };
        for stages in deeper(NOTHING).into_iter().skip(1) {
            cases.push(self.case(VisiPrunerConfig {
                stages,
                ..self.base()
            }));
        }
        for config in self.shallow_variants() {
            for stages in deeper(config.stages) {
                cases.push(self.case(VisiPrunerConfig {
                    stages,
                    ..config.clone()
                }));
            }
        }
        cases
    }

    /// What happens at the edges: nothing fires, nothing is kept, everything is kept, no exit, cells evicted,
    /// layers counted one after the other, the other unit, schedules.
    pub fn edges(&self) -> Vec<Case> {
        let tuned = self.tuned(VisiPrunerConfig {
            stages: Stages::MIDDLE_DEEP,
            ..self.base()
        });
        let shallow = self.tuned(VisiPrunerConfig {
            stages: Stages::ALL,
            ..self.base()
        });
        let both = Expected {
            fusion: true,
            exit: true,
        };
        let fusion = Expected {
            fusion: true,
            exit: false,
        };
        let neither = Expected {
            fusion: false,
            exit: false,
        };
        let relative = TokensThresholdUnit::Relative;
        let f = self.run(&tuned).fusion_layer.expect("a tuned policy fuses");
        let in_unit = tuned.tokens_threshold / self.run(&tuned).layers[f].output_norm;
        let staged = [
            (
                "nothing fires",
                neither,
                VisiPrunerConfig {
                    layer_threshold: -1.0,
                    ..tuned.clone()
                },
            ),
            (
                "nothing is kept",
                both,
                VisiPrunerConfig {
                    tokens_threshold: 1e9,
                    ..tuned.clone()
                },
            ),
            (
                "nothing is kept, no deep stage",
                both,
                VisiPrunerConfig {
                    tokens_threshold: 1e9,
                    stages: Stages {
                        middle: true,
                        ..NOTHING
                    },
                    ..tuned.clone()
                },
            ),
            (
                "everything is kept",
                both,
                VisiPrunerConfig {
                    tokens_threshold: 0.0,
                    exit_threshold: -1.0,
                    ..tuned.clone()
                },
            ),
            (
                "no layer counts",
                fusion,
                VisiPrunerConfig {
                    exit_threshold: 1.0,
                    ..tuned.clone()
                },
            ),
            (
                "relative unit",
                both,
                VisiPrunerConfig {
                    tokens_threshold_unit: relative,
                    tokens_threshold: in_unit,
                    ..tuned.clone()
                },
            ),
            (
                "evicted",
                both,
                VisiPrunerConfig {
                    evict_shallow_kv: true,
                    ..tuned.clone()
                },
            ),
            (
                "shallow and evicted",
                both,
                VisiPrunerConfig {
                    evict_shallow_kv: true,
                    ..shallow.clone()
                },
            ),
            (
                "evicted only",
                neither,
                VisiPrunerConfig {
                    evict_shallow_kv: true,
                    stages: NOTHING,
                    ..self.base()
                },
            ),
            (
                "first layer probed is 1",
                both,
                self.tuned(VisiPrunerConfig {
                    stages: Stages::MIDDLE_DEEP,
                    shallow_mid_layer: 0,
                    ..self.base()
                }),
            ),
        ];
        let mut cases: Vec<Case> = staged
            .into_iter()
            .map(|(name, expected, config)| named(name.to_owned(), expected, config))
            .collect();
        let consecutive = VisiPrunerConfig {
            exit_count: ExitCount::Consecutive,
            ..tuned
        };
        let exit = self.run(&consecutive).exit_layer.is_some();
        cases.push(named(
            "consecutive".to_owned(),
            Expected { fusion: true, exit },
            consecutive,
        ));
        cases.extend(self.schedules());
        cases
    }

    fn schedules(&self) -> Vec<Case> {
        let n_layer = self.reference.n_layer;
        let schedule = |f: usize, keep: usize, from: usize| Case {
            name: format!("fixed {f}/{keep}/{from}"),
            policy: PolicyConfig::Fixed(format!("{f}/{keep}/{from}").parse().expect("a schedule")),
            expected: Expected {
                fusion: true,
                exit: keep == 0 || from < n_layer,
            },
        };
        vec![
            schedule(2, self.n_keep, n_layer - 2),
            schedule(0, 1, 1),
            schedule(1, 0, n_layer),
            schedule(3, self.n_keep, n_layer),
            schedule(n_layer - 1, 2, n_layer),
            schedule(1, self.layout.n_vision(), 4),
        ]
    }

    fn base(&self) -> VisiPrunerConfig {
        VisiPrunerConfig {
            shallow_mid_layer: self.shallow_mid_layer,
            ..VisiPrunerConfig::default()
        }
    }

    fn shallow_variants(&self) -> Vec<VisiPrunerConfig> {
        let mut variants = Vec::new();
        for layer0 in [Layer0::Merge, Layer0::Half, Layer0::None] {
            for shallow_mask in [ShallowMask::Sink, ShallowMask::Skip] {
                for visual_self_attention in [VisualSelfAttention::Keep, VisualSelfAttention::Remove] {
                    let stages = Stages {
                        shallow: true,
                        ..NOTHING
                    };
                    variants.push(VisiPrunerConfig {
                        stages,
                        layer0,
                        shallow_mask,
                        visual_self_attention,
                        ..self.base()
                    });
                }
            }
        }
        variants
    }

    fn case(&self, config: VisiPrunerConfig) -> Case {
        let Stages {
            shallow,
            middle,
            deep,
        } = config.stages;
        let mut name: Vec<String> = [("shallow", shallow), ("middle", middle), ("deep", deep)]
            .iter()
            .filter(|(_, is_on)| *is_on)
            .map(|(stage, _)| (*stage).to_owned())
            .collect();
        if shallow {
            let VisiPrunerConfig {
                layer0,
                shallow_mask,
                visual_self_attention,
                ..
            } = &config;
            name.push(format!(
                "{layer0:?}, {shallow_mask:?}, vision to vision {visual_self_attention:?}"
            ));
        }
        let expected = Expected {
            fusion: middle,
            exit: deep,
        };
        named(name.join(", "), expected, self.tuned(config))
    }

    /// The policy with thresholds that make its stages happen on this prompt.
    pub fn tuned(&self, mut config: VisiPrunerConfig) -> VisiPrunerConfig {
        let stages = config.stages;
        if stages.deep && !stages.middle {
            config.mid_deep_layer = Some(self.reference.n_layer - 3);
        }
        if !stages.middle {
            return config;
        }
        config.stages = Stages {
            middle: false,
            deep: false,
            ..stages
        };
        let unpruned = self.run(&config);
        let f = self.tune_fusion(&mut config, &unpruned.layers);
        config.tokens_threshold = between(descending(&unpruned.layers[f].norm), self.n_keep);
        if stages.deep {
            config.stages = Stages {
                middle: true,
                deep: false,
                ..stages
            };
            let unexited = self.run(&config);
            assert_eq!(unexited.fusion_layer, Some(f));
            let least: Vec<f64> = unexited.layers[f + 1..]
                .iter()
                .map(|layer| least(&layer.cos))
                .collect();
            // Half of the layers count, but at least as many as are needed.
            let n_counting = (least.len() / 2).max(config.exit_layers);
            config.exit_threshold = between(descending(&least), n_counting);
        }
        config.stages = stages;
        config
    }

    /// Makes a layer fire that is not the first to be probed, if one can: the earliest with a token that
    /// turns the output further than any token before. Returns it.
    fn tune_fusion(&self, config: &mut VisiPrunerConfig, layers: &[LayerRun]) -> usize {
        let first = config.shallow_mid_layer + 1;
        let mut before = least(&layers[first].cos);
        for (il, layer) in layers.iter().enumerate().take(layers.len() - 3).skip(first + 1) {
            let here = least(&layer.cos);
            if here < before {
                config.layer_threshold = (here + before) / 2.0;
                return il;
            }
            before = before.min(here);
        }
        config.layer_threshold = (least(&layers[first].cos) + 1.0) / 2.0;
        first
    }
}

fn named(name: String, expected: Expected, config: VisiPrunerConfig) -> Case {
    Case {
        name,
        policy: PolicyConfig::VisiPruner(config),
        expected,
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(1.0, f64::min)
}

fn descending(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted
}

/// A threshold that the first `n` values reach and the others do not.
fn between(descending: Vec<f64>, n: usize) -> f64 {
    match descending.get(n) {
        Some(next) => (descending[n - 1] + next) / 2.0,
        // all of them reach it
        None => descending[descending.len() - 1] - 0.1,
    }
}
