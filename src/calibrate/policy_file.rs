//! The policy as a file that says where its numbers come from.

use super::picture;
use super::result::{Calibration, Found};
use super::score::Score;
use crate::eval::proportion;
use crate::policy::PolicyConfig;

impl Calibration {
    /// The policy that was found as a TOML policy file, with what was measured in its comments; `None` if none was found.
    /// `model` and `prompts` are names for the reader.
    pub fn policy_file(&self, model: &str, prompts: &str) -> Option<String> {
        let found = self.found.as_ref()?;
        let mut lines = vec![
            format!("The policy of {model}, found by `visipruner calibrate`."),
            String::new(),
        ];
        lines.extend(self.measured(found, prompts));
        lines.push(String::new());
        lines.extend(picture::lines(&self.profile));
        let mut text: String = lines.iter().map(|line| comment(line)).collect();
        for line in PolicyConfig::VisiPruner(found.policy.clone()).to_toml().lines() {
            let field = line.split(" = ").next().unwrap_or_default();
            if let Some(why) = self.why(field, found) {
                text += "\n";
                text.extend(why.lines().map(comment));
            }
            text += line;
            text += "\n";
        }
        Some(text)
    }

    /// What the policy does, and how well, in lines.
    pub fn measured(&self, found: &Found, prompts: &str) -> Vec<String> {
        let n_search = self.n_prompts - self.n_held_out;
        let mut lines = vec![
            format!("Asked for: {}.", self.target),
            format!(
                "Measured on {} prompts ({prompts}): {n_search} to search with, {} held out.",
                self.n_prompts, self.n_held_out
            ),
            format!("  all       {}", score_line(&found.score)),
        ];
        if found.held_out.n > 0 {
            lines.push(format!("  held out  {}", score_line(&found.held_out)));
        }
        lines.push(format!("  {}", chance(&found.score)));
        lines.push(format!(
            "Of all vision rows {:.1} % are computed.",
            100.0 * found.rows
        ));
        lines.push(self.decided(found));
        lines
    }

    fn decided(&self, found: &Found) -> String {
        let decisions = &found.decisions;
        if let Some(il) = found
            .policy
            .mid_deep_layer
            .filter(|_| found.policy.exits_by_layer())
        {
            return format!("Vision ends after layer {}, whatever the prompt.", il - 1);
        }
        let layers = match decisions.fusion_layers {
            Some([first, last]) if first == last => format!("layer {first}"),
            Some([first, last]) => format!("layers {first} to {last}"),
            None => return String::from("No prompt fused."),
        };
        format!(
            "{} of {} prompts fuse, in {layers}; {:.1} of {} vision tokens go on, {} at most; vision ends early in {}.",
            decisions.n_fused,
            self.n_prompts,
            decisions.mean_kept,
            self.n_vision,
            decisions.max_kept,
            decisions.n_exited
        )
    }

    /// Why a field has its value, for those that were chosen.
    fn why(&self, field: &str, found: &Found) -> Option<String> {
        let (policy, profile) = (&found.policy, &self.profile);
        let il_first = policy.shallow_mid_layer + 1;
        let is_schedule = policy.exits_by_layer();
        let sentence = match field {
            "shallow_mid_layer" => format!(
                "On {} prompts vision could be hidden below layer {}, or from layer {} on, within the target.",
                profile.n_prompts, profile.reads_from, profile.reads_until
            ),
            "layer_threshold" if !is_schedule => {
                let [low, median, high] = self.readings.get(il_first)?.min_cos;
                format!(
                    "Layer {il_first} is the first that is searched. Its smallest cosine is {low:.6} for 10 % of the prompts,\n\
                     {median:.6} for half, {high:.6} for 90 %."
                )
            }
            "tokens_threshold" if !is_schedule => {
                let [low, median, high] = self.readings.get(il_first)?.max_relative_norm;
                format!(
                    "Largest contribution in layer {il_first}, as a share of the output: {low:.3} for 10 % of the prompts,\n\
                     {median:.3} for half, {high:.3} for 90 %."
                )
            }
            "exit_threshold" if policy.stages.middle && policy.stages.deep => {
                format!(
                    "Vision ended early in {} of {} prompts.",
                    found.decisions.n_exited, self.n_prompts
                )
            }
            "mid_deep_layer" => String::from("Nothing is measured at run time: vision is gone from here on."),
            "layer0" => String::from("The shallow stage is off; these say what it would do."),
            _ => return None,
        };
        Some(sentence)
    }
}

/// `3 of 300 answers changed; KL mean 0.0012, 95 % at most 0.004, largest 0.31 nats`
pub(super) fn score_line(score: &Score) -> String {
    format!(
        "{} of {} answers changed, {} in the first token; KL mean {}, 95 % at most {}, largest {} nats",
        score.n_changed,
        score.n,
        score.n_first_changed,
        picture::number(score.mean_kl),
        picture::number(score.kl_95),
        picture::number(score.max_kl)
    )
}

/// What so many prompts can tell.
fn chance(score: &Score) -> String {
    let interval = proportion(score.n_changed, score.n).map_or([0.0, 1.0], |share| [share.low, share.high]);
    let [low, high] = interval.map(|share| 100.0 * share);
    format!("so that of all such prompts {low:.1} to {high:.1} % may change (95 % interval)")
}

fn comment(line: &str) -> String {
    // A name may have any character that a file may have.
    let line = line.replace(char::is_control, " ");
    if line.is_empty() {
        String::from("#\n")
    } else {
        format!("# {line}\n")
    }
}
