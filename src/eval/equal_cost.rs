//! The budget at which a policy costs what another one costs, so that accuracies can be compared at equal cost.
//!
//! A policy's cost is measured by running it on some questions; here it is a closure from budget to cost. It must be
//! monotone but for noise, in either direction: keeping more tokens costs more, a higher threshold less.

use std::ops::RangeInclusive;

/// The budget whose cost came closest to what was wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget<B> {
    /// The budget.
    pub budget: B,
    /// What it costs.
    pub cost: f64,
    /// Whether the wanted cost lies between the costs at the ends of the range. If not, `budget` is one of the ends.
    pub in_range: bool,
}

/// The number of something (tokens to keep, the layer to drop at) whose cost is closest to `target`, by bisection:
/// about `log2` of the range's length calls of `cost`. The end of the range must not be below its start.
///
/// # Errors
/// The first that `cost` returns.
pub fn count_at_cost<E>(
    target: f64,
    range: RangeInclusive<usize>,
    mut cost: impl FnMut(usize) -> Result<f64, E>,
) -> Result<Budget<usize>, E> {
    let halfway = |low: usize, high: usize| Some(low + (high - low) / 2).filter(|&middle| middle > low);
    bisect(target, *range.start(), *range.end(), &mut cost, halfway, 0.0)
}

/// The threshold whose cost is closest to `target`, by bisection: it stops at a cost within `tolerance` of the target
/// (in the unit of cost), or after 20 steps, when the range is down to a millionth.
///
/// # Errors
/// The first that `cost` returns.
pub fn threshold_at_cost<E>(
    target: f64,
    range: RangeInclusive<f64>,
    tolerance: f64,
    mut cost: impl FnMut(f64) -> Result<f64, E>,
) -> Result<Budget<f64>, E> {
    let mut n_steps = 0;
    let halfway = |low: f64, high: f64| {
        n_steps += 1;
        (n_steps <= 20).then_some(low + (high - low) / 2.0)
    };
    bisect(
        target,
        *range.start(),
        *range.end(),
        &mut cost,
        halfway,
        tolerance,
    )
}

/// `halfway` gives the budget between two, or `None` when there is none left.
fn bisect<B: Copy, E>(
    target: f64,
    mut low: B,
    mut high: B,
    cost: &mut dyn FnMut(B) -> Result<f64, E>,
    mut halfway: impl FnMut(B, B) -> Option<B>,
    tolerance: f64,
) -> Result<Budget<B>, E> {
    let (cost_low, cost_high) = (cost(low)?, cost(high)?);
    let rises = cost_high >= cost_low;
    let in_range = (cost_low.min(cost_high)..=cost_low.max(cost_high)).contains(&target);
    let mut best = Budget {
        budget: low,
        cost: cost_low,
        in_range,
    };
    let mut consider = |budget: B, cost: f64| {
        if (cost - target).abs() < (best.cost - target).abs() {
            (best.budget, best.cost) = (budget, cost);
        }
        (best.cost - target).abs() <= tolerance
    };
    let mut is_close = consider(high, cost_high);
    while in_range && !is_close {
        let Some(middle) = halfway(low, high) else { break };
        let cost_middle = cost(middle)?;
        is_close = consider(middle, cost_middle);
        if (cost_middle < target) == rises {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn ok(cost: f64) -> Result<f64, Infallible> {
        Ok(cost)
    }

    #[test]
    fn tokens_to_keep() {
        for target in [0.0, 0.9, 33.0, 33.4, 63.6, 64.0] {
            let mut n_calls = 0;
            let Ok(found) = count_at_cost(target, 0..=64, |keep| {
                n_calls += 1;
                ok(keep as f64)
            });
            assert!(
                (found.cost - target).abs() <= 0.5 && found.in_range,
                "{target}: {found:?}"
            );
            assert_eq!(found.budget as f64, found.cost);
            assert!(n_calls <= 9, "{n_calls}");
        }
    }

    /// `1 / (1 + t)` falls to 0.25 at `t` = 3.
    #[test]
    fn a_threshold_that_costs_less_the_higher_it_is() {
        let Ok(found) = threshold_at_cost(0.25, 0.0..=10.0, 1e-4, |threshold| ok(1.0 / (1.0 + threshold)));
        assert!(
            (found.budget - 3.0).abs() < 2e-3 && (found.cost - 0.25).abs() <= 1e-4,
            "{found:?}"
        );
    }

    /// A cost with steps never comes closer than half a step; it still ends.
    #[test]
    fn a_threshold_with_steps() {
        let Ok(found) = threshold_at_cost(0.34, 0.0..=1.0, 1e-6, |threshold| {
            ok((threshold * 4.0).floor() / 4.0)
        });
        assert_eq!((found.cost, found.in_range), (0.25, true));
    }

    #[test]
    fn targets_out_of_reach_give_an_end() {
        let Ok(found) = count_at_cost(99.0, 2..=8, |keep| ok(keep as f64));
        assert_eq!(
            found,
            Budget {
                budget: 8,
                cost: 8.0,
                in_range: false
            }
        );
        let Ok(found) = count_at_cost(1.0, 2..=8, |keep| ok(keep as f64));
        assert_eq!((found.budget, found.in_range), (2, false));
        let Ok(found) = count_at_cost(5.0, 5..=5, |keep| ok(keep as f64));
        assert_eq!((found.budget, found.in_range), (5, true));
    }

    #[test]
    fn errors_end_the_search() {
        let found = count_at_cost(3.0, 0..=8, |keep| {
            if keep == 4 {
                Err("cannot run")
            } else {
                Ok(keep as f64)
            }
        });
        assert_eq!(found, Err("cannot run"));
    }
}
