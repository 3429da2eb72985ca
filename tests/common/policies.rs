//! Policies of every kind.

use visipruner::policy::{PolicyConfig, PolicyOverrides};

/// The policy that these fields make.
pub fn policy(toml: &str) -> PolicyConfig {
    PolicyOverrides::from_toml(toml)
        .and_then(|fields| fields.apply(&PolicyConfig::Off))
        .expect("a policy")
}

/// Looks for the layer of fusion in a random model of eight layers, and finds it in the middle.
pub const SEARCHING: &str = "policy = 'visipruner'\nshallow_mid_layer = 1\nlayer_threshold = 0.99\ntokens_threshold = 0.1\n\
                             tokens_threshold_unit = 'relative'";

/// The same with all three stages.
pub const SEARCHING_IN_STAGES: &str = "policy = 'visipruner'\nstages = ['shallow', 'middle', 'deep']\nshallow_mid_layer = 2\n\
                                       layer_threshold = 0.99\ntokens_threshold = 0.1\ntokens_threshold_unit = 'relative'";

/// Probes every layer but the first two, and drops nothing.
pub const PROBING: &str = "policy = 'visipruner'\nshallow_mid_layer = 1\nlayer_threshold = -1";

/// For a model of eight layers.
pub fn policies() -> Vec<PolicyConfig> {
    [
        "policy = 'off'",
        "policy = 'fixed'\nfusion_layer = 3\nkeep = 5\nexit_from = 6",
        "policy = 'fixed'\nfusion_layer = 5\nkeep = 3\nexit_from = 7\nevict_shallow_kv = true\nshallow_mid_layer = 2",
        SEARCHING,
        SEARCHING_IN_STAGES,
        "policy = 'visipruner'\nstages = ['shallow', 'middle']\nshallow_mid_layer = 3\nlayer_threshold = 0.99\n\
         shallow_mask = 'skip'\nvisual_self_attention = 'remove'\nlayer0 = 'half'\ntokens_threshold = 0.1\n\
         tokens_threshold_unit = 'relative'",
        "policy = 'fastv'\nrank_layers = [1]\nkeep = ['50%']",
        "policy = 'pyramiddrop'\nrank_layers = [1, 3, 5]\nkeep = [12, 6, 2]",
        "policy = 'sparsevlm'\nrank_layers = [2, 4]\nkeep = [9, 4]",
        "policy = 'vtw'\nexit_from = 4",
        "policy = 'divprune'\nbudget = 7",
        "policy = 'uniform+fixed'\nbudget = '50%'\nfusion_layer = 2\nkeep = 3\nexit_from = 5",
        "policy = 'dense_staged'",
    ]
    .map(policy)
    .to_vec()
}
