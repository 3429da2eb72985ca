//! What is measured: which policies, on which prompts.

use visipruner::policy::fixed::Schedule;
use visipruner::policy::{PolicyConfig, PolicyError};

use crate::cli::args::BenchArgs;
use crate::cli::files::Files;

/// One way to run the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Its name in tables.
    pub label: String,
    /// What it does with vision tokens.
    pub policy: PolicyConfig,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `dense` first.
    pub variants: Vec<Variant>,
    /// Pictures in the prompt, one series of measurements each.
    pub n_images: Vec<usize>,
    /// Tokens of text in the prompt.
    pub n_text: usize,
    /// Questions about the pictures.
    pub n_questions: usize,
    /// Answers that are generated together.
    pub n_sequences: u32,
}

/// Of LLaVA-1.5-7B's 32 layers the paper's averages: fusion at 13, 10 tokens kept, exit at 24.
const AVERAGE: Schedule = Schedule {
    fusion_layer: 13,
    keep: 10,
    exit_from: 24,
    evict_shallow_kv: false,
    shallow_mid_layer: 0,
};
const N_LAYER_OF_AVERAGE: usize = 32;

impl Plan {
    /// From the flags: schedules, and the policy if one was asked for. Without either: the model's own policy if it has
    /// one, and the schedule that the paper found on average, scaled to the model's layers.
    ///
    /// # Errors
    /// [`PolicyError`] for a policy that the model cannot have.
    pub fn new(args: &BenchArgs, files: &Files) -> Result<Self, PolicyError> {
        let n_layer = files.shape().n_layer;
        let chosen = files.policy(&args.policy)?.resolved.policy;
        let is_asked_for = args.policy.policy.is_some() || args.policy.policy_file.is_some();
        let mut schedules = args.schedules.clone();
        let mut variants = vec![Variant {
            label: "dense".to_owned(),
            policy: PolicyConfig::Off,
        }];
        if schedules.is_empty() && !is_asked_for {
            schedules.push(scaled(AVERAGE, n_layer));
        }
        let own = (is_asked_for || args.schedules.is_empty()).then_some(chosen);
        for policy in own
            .into_iter()
            .chain(schedules.into_iter().map(PolicyConfig::Fixed))
        {
            if policy == PolicyConfig::Off {
                continue;
            }
            policy.validate_for(n_layer)?;
            variants.push(Variant {
                label: label(&policy),
                policy,
            });
        }
        Ok(Self {
            variants,
            n_images: args.n_images.clone(),
            n_text: args.n_text,
            n_questions: args.questions,
            n_sequences: args.sequences,
        })
    }
}

fn label(policy: &PolicyConfig) -> String {
    match policy {
        PolicyConfig::Fixed(schedule) => schedule.to_string(),
        policy => policy.name().to_string(),
    }
}

/// A schedule at the same depths of a model with other layers.
fn scaled(schedule: Schedule, n_layer: usize) -> Schedule {
    let scale = |il: usize| (il * n_layer).div_euclid(N_LAYER_OF_AVERAGE);
    let fusion_layer = scale(schedule.fusion_layer).min(n_layer.saturating_sub(1));
    Schedule {
        fusion_layer,
        exit_from: scale(schedule.exit_from).clamp(fusion_layer + 1, n_layer.max(fusion_layer + 1)),
        ..schedule
    }
}

/// Text in front of the pictures, if there are that many tokens: the length of LLaVA-1.5's system message.
const N_BEFORE: usize = 35;
/// Tokens that a tokenizer adds in front by itself.
const N_BOS: usize = 1;

/// A prompt of about `n_text` tokens of text with pictures between them, as two pieces of raw text: up to the last picture,
/// and the question. `correction` tokens are added to the question (or left out, if negative). Questions with other numbers
/// have other words.
pub fn prompt_text(n_text: usize, n_images: usize, question: usize, correction: isize) -> [String; 2] {
    let n_before = N_BEFORE.min(n_text / 2);
    let n_after = (n_text - n_before).saturating_add_signed(correction).max(1);
    let pictures = "<__media__>".repeat(n_images);
    let before = " a".repeat(n_before.saturating_sub(N_BOS));
    [before + &pictures, words(question, n_after)]
}

/// Words of one letter each, no two questions alike: the first say which one it is.
fn words(question: usize, n: usize) -> String {
    const LETTERS: usize = 26;
    let mut number = question;
    let letters = (0..n).map(|_| {
        let letter = (number % LETTERS) as u8;
        number /= LETTERS;
        [' ', char::from(b'a' + letter)]
    });
    letters.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_keep_their_depth_in_other_models() {
        assert_eq!(scaled(AVERAGE, 32), AVERAGE);
        assert_eq!(scaled(AVERAGE, 40).to_string(), "16/10/30");
        assert_eq!(scaled(AVERAGE, 10).to_string(), "4/10/7");
        assert_eq!(scaled(AVERAGE, 1).to_string(), "0/10/1");
        for n_layer in 1..100 {
            let policy = PolicyConfig::Fixed(scaled(AVERAGE, n_layer));
            assert!(policy.validate_for(n_layer).is_ok(), "{n_layer}");
        }
    }

    #[test]
    fn prompts_have_their_pictures_between_text() {
        assert_eq!(
            prompt_text(6, 2, 0, 0).concat(),
            " a a<__media__><__media__> a a a"
        );
        assert_eq!(prompt_text(6, 1, 0, 1).concat(), " a a<__media__> a a a a");
        assert_eq!(prompt_text(6, 1, 0, -9).concat(), " a a<__media__> a");
        assert_eq!(prompt_text(48, 1, 0, 0).concat().matches(" a").count(), 34 + 13);
    }

    #[test]
    fn questions_differ_in_their_first_words() {
        assert_eq!(prompt_text(6, 1, 1, 0).concat(), " a a<__media__> b a a");
        assert_eq!(prompt_text(6, 1, 27, 0).concat(), " a a<__media__> b b a");
    }
}
