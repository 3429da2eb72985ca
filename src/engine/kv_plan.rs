//! How many cells the KV cache of each group of layers is given.
//!
//! A group whose layers hold no more than a few vision tokens, because the policy says so beforehand, does not need a cell
//! for each of them: it is given what the prompt's text, those tokens and the answer take.

use crate::ffi::KvGroup;
use crate::policy::{PromptLayout, StagePolicy};

/// Caches are a multiple of so many cells long (vp_kv_groups, llama-kv-cache.cpp).
const CELLS_STEP: usize = 256;

/// What a request needs room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need<'a> {
    pub(crate) layout: &'a PromptLayout,
    /// Tokens generated at most.
    pub(crate) n_predict: usize,
    /// Size of the context.
    pub(crate) n_ctx: usize,
}

/// The groups of a session.
#[derive(Debug, Clone)]
pub(crate) struct KvPlan {
    groups: Vec<KvGroup>,
}

impl KvPlan {
    /// llama.cpp's own memory.
    pub(crate) fn stock() -> Self {
        Self { groups: Vec::new() }
    }

    /// One group up to each cut. Those that `policy`, at work on some prompt, bounds are as small as can be until
    /// [`fit`](Self::fit) makes them larger; the others hold the whole context.
    pub(crate) fn new(cuts: &[usize], policy: &dyn StagePolicy) -> Self {
        let begins = std::iter::once(0).chain(cuts.iter().copied());
        let n_cells = |il| policy.vision_bound(il).map_or(0, |_| CELLS_STEP as u32);
        Self {
            groups: begins
                .map(|il_begin| KvGroup {
                    il_begin,
                    n_cells: n_cells(il_begin),
                })
                .collect(),
        }
    }

    pub(crate) fn groups(&self) -> &[KvGroup] {
        &self.groups
    }

    /// Makes small groups larger where a request needs it. Returns whether any was.
    pub(crate) fn fit(&mut self, policy: &dyn StagePolicy, need: Need<'_>) -> bool {
        let n_vision = need.layout.n_vision();
        let n_text = need.layout.n_rows - n_vision;
        let n_predict = need.n_predict.min(need.n_ctx.saturating_sub(need.layout.n_rows));
        let mut has_grown = false;
        for group in self.groups.iter_mut().filter(|group| group.n_cells > 0) {
            let n_kept = policy
                .vision_bound(group.il_begin)
                .map_or(n_vision, |bound| bound.min(n_vision));
            let n_cells = (n_text + n_kept + n_predict).next_multiple_of(CELLS_STEP);
            if n_cells > group.n_cells as usize {
                group.n_cells = if n_cells < need.n_ctx { n_cells as u32 } else { 0 };
                has_grown = true;
            }
        }
        has_grown
    }

    /// Whether some groups are smaller than the context.
    pub(crate) fn is_bounded(&self) -> bool {
        self.groups.iter().any(|group| group.n_cells > 0)
    }

    /// Gives every group room for the whole context. Returns whether any had less.
    pub(crate) fn give_all(&mut self) -> bool {
        let was_bounded = self.is_bounded();
        for group in &mut self.groups {
            group.n_cells = 0;
        }
        was_bounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Skipped;
    use crate::policy::fixed::{Fixed, Schedule};
    use crate::policy::off::Off;

    const N_LAYER: usize = 32;

    fn schedule() -> Schedule {
        Schedule {
            fusion_layer: 13,
            keep: 10,
            exit_from: 24,
            ..Schedule::default()
        }
    }

    fn one_image(n_rows: usize, image: std::ops::Range<usize>) -> PromptLayout {
        PromptLayout {
            n_rows,
            vision: std::iter::once(image).collect(),
        }
    }

    fn n_cells(plan: &KvPlan) -> Vec<u32> {
        plan.groups().iter().map(|group| group.n_cells).collect()
    }

    #[test]
    fn bounded_groups_hold_text_kept_tokens_and_the_answer() {
        let layout = one_image(624, 35..611);
        let need = |n_predict| Need {
            layout: &layout,
            n_predict,
            n_ctx: 2048,
        };
        let policy = Fixed::new(schedule(), N_LAYER, 576);
        let mut plan = KvPlan::new(&[14, 24], &policy);
        assert_eq!(n_cells(&plan), [0, 256, 256]);
        assert!(!plan.fit(&policy, need(16)));
        assert_eq!(n_cells(&plan), [0, 256, 256]);
        assert!(plan.fit(&policy, need(200)));
        assert_eq!(n_cells(&plan), [0, 512, 256]);
        assert!(!plan.fit(&policy, need(1)), "what was given is kept");
        assert!(plan.fit(&policy, need(usize::MAX)));
        assert_eq!(n_cells(&plan), [0, 1536, 1536]);
    }

    #[test]
    fn a_prompt_that_nothing_is_dropped_of_needs_all_its_rows() {
        let layout = one_image(400, 100..400);
        let mut plan = KvPlan::new(&[14, 24], &Fixed::new(schedule(), N_LAYER, 1));
        let need = Need {
            layout: &layout,
            n_predict: 10,
            n_ctx: 1024,
        };
        assert!(plan.fit(&Off::because(Skipped::EndsInImage), need));
        assert_eq!(n_cells(&plan), [0, 512, 512]);
        assert!(plan.give_all());
        assert_eq!(n_cells(&plan), [0, 0, 0]);
        assert!(!plan.give_all());
    }
}
