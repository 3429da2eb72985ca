//! Budgets at which policies compute as much attention from and to vision tokens as another one.

use std::ops::ControlFlow;

use visipruner::engine::{EncodedPrompt, Model, Request, Session, SessionOptions};
use visipruner::eval::equal_cost::count_at_cost;
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::PolicyName;

use super::budget::BudgetField;
use super::plan::{Candidate, ModelPlan, candidate};
use crate::cli::error::Error;
use crate::cli::interrupt::Interrupt;
use crate::cli::terminal::Terminal;

/// What is to be met.
pub enum Target<'a> {
    /// What this policy costs.
    Policy(&'a str),
    /// A share of what the model costs without pruning.
    Share(f64),
}

/// The questions on which costs are measured, and what measures them.
pub struct Scales<'a> {
    pub model: &'a Model,
    pub options: SessionOptions,
    pub prompts: Vec<EncodedPrompt>,
    pub request: Request,
    pub interrupt: &'a Interrupt,
    pub terminal: &'a mut Terminal,
}

impl Scales<'_> {
    /// Gives each policy that has a budget the one at which it costs what the target costs.
    ///
    /// # Errors
    /// What goes wrong in the engine, Ctrl-C, and a policy that does not exist.
    pub fn equalise(&mut self, plan: &mut ModelPlan, target: &Target) -> Result<(), Error> {
        let (target, stays) = match target {
            Target::Policy(name) => (self.cost(&plan.called(name)?.policy)?, Some(*name)),
            Target::Share(share) => (*share, None),
        };
        for i in 0..plan.policies.len() {
            let policy = &plan.policies[i];
            if stays != Some(policy.name().as_str())
                && let Some(found) = self.at_cost(plan, policy, target)?
            {
                plan.policies[i] = found;
            }
        }
        Ok(())
    }

    /// The policy with the budget at which it costs `target`; `None` if it has no budget.
    fn at_cost(
        &mut self,
        plan: &ModelPlan,
        policy: &Candidate,
        target: f64,
    ) -> Result<Option<Candidate>, Error> {
        let n_vision = self.prompts.iter().map(|prompt| prompt.layout().n_vision()).max();
        let n_layer = self.model.n_layer();
        let Some(budget) = BudgetField::of(&policy.policy, n_vision.unwrap_or(0).max(1), n_layer) else {
            if policy.policy.name() != PolicyName::Off.into() {
                self.terminal
                    .warn(format_args!("{} has no budget, it stays as it is", policy.name()));
            }
            return Ok(None);
        };
        let with = |n: usize| {
            let (field, value) = budget.at(n);
            let note = format!("{field}={value}");
            let spec = policy.spec.with(&[(field, value)]);
            candidate(&spec, policy.policy.name().to_string(), note, &plan.files)
        };
        let found = count_at_cost(target, budget.range.clone(), |n| self.cost(&with(n)?.policy))?;
        let mut at_cost = with(found.budget)?;
        at_cost.series = without(&policy.series, &at_cost.note);
        if !found.in_range {
            self.terminal.warn(format_args!(
                "{} costs at least or at most {:.1} % of the attention without pruning, not {:.1} %",
                at_cost.name(),
                100.0 * found.cost,
                100.0 * target
            ));
        }
        Ok(Some(at_cost))
    }

    /// Attention from and to vision tokens over all prompts, as a share of that without pruning.
    fn cost(&mut self, policy: &PolicyConfig) -> Result<f64, Error> {
        let mut session = Session::new(
            self.model,
            SessionOptions {
                policy: policy.clone(),
                ..self.options.clone()
            },
        )?;
        self.terminal.busy("finding budgets");
        let (mut actual, mut dense) = (0, 0);
        for prompt in &self.prompts {
            let outcome = session.generate_encoded(prompt, &self.request, |_| ControlFlow::Continue(()))?;
            if self.interrupt.is_pressed() {
                return Err(Error::NothingAnswered);
            }
            actual += outcome.report.flops.vision_attention.actual;
            dense += outcome.report.flops.vision_attention.dense;
        }
        Ok(actual as f64 / dense.max(1) as f64)
    }
}

/// A label without the field that `note` now says.
fn without(series: &str, note: &str) -> String {
    let field = note.split('=').next().unwrap_or_default();
    let is_other = |word: &&str| word.split('=').next() != Some(field);
    series.split(' ').filter(is_other).collect::<Vec<_>>().join(" ")
}
