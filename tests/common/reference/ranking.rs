//! What is kept for its attention, and what is kept for its difference from the rest.

use visipruner::policy::before::BeforeConfig;
use visipruner::policy::budget::Budget;
use visipruner::policy::rank::RankSchedule;

use super::*;

impl Run<'_> {
    /// In a rank layer the tokens go on that the last row attends to most, averaged over heads.
    pub fn decide_ranked(&mut self, il: usize, layer: &LayerRun, schedule: &RankSchedule) {
        let Some(i) = schedule
            .rank_layers
            .iter()
            .position(|&rank_layer| rank_layer == il)
        else {
            return;
        };
        let n_kept = count(schedule.keep[i], self.n_vision);
        if n_kept == 0 {
            return self.exit(il);
        }
        let kept = self.largest(&layer.tokens, &layer.attention, n_kept);
        self.keep(Some(il), kept);
    }

    /// The `n` tokens of the largest values, ascending; among equals the earlier ones.
    pub fn largest(&mut self, tokens: &[usize], values: &[f64], n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by(|&i, &j| values[j].total_cmp(&values[i]).then(i.cmp(&j)));
        if let Some(&next) = order.get(n) {
            // what is equal here, as the distances of a pair, is equal everywhere
            let kept = order[..n].iter().map(|&i| values[i]);
            let kept: Vec<f64> = kept.filter(|&value| value != values[next]).collect();
            self.note_margin(&kept, values[next]);
        }
        let mut largest: Vec<usize> = order.into_iter().take(n).map(|i| tokens[i]).collect();
        largest.sort_unstable();
        largest
    }

    /// Of new tokens, those of the largest differences from each other enter the model, found greedily: first the one that
    /// is farthest from its nearest neighbour, then always the one farthest from all chosen.
    pub fn most_diverse(&mut self, tokens: &[usize], embd: &[Vec<f64>], config: &BeforeConfig) -> Vec<usize> {
        let n = count(config.budget, tokens.len());
        if n == tokens.len() {
            return tokens.to_vec();
        }
        let distance = |i: usize, j: usize| 1.0 - dot(&embd[i], &embd[j]) / (norm(&embd[i]) * norm(&embd[j]));
        let mut chosen: Vec<usize> = Vec::new();
        while chosen.len() < n {
            let free: Vec<usize> = (0..tokens.len()).filter(|i| !chosen.contains(i)).collect();
            let to_nearest = |&i: &usize| {
                let others = if chosen.is_empty() { &free } else { &chosen };
                let distances = others.iter().filter(|&&j| j != i).map(|&j| distance(i, j));
                distances.fold(f64::INFINITY, f64::min)
            };
            let nearest: Vec<f64> = free.iter().map(to_nearest).collect();
            chosen.extend(self.largest(&free, &nearest, 1));
        }
        chosen.sort_unstable();
        chosen.into_iter().map(|i| tokens[i]).collect()
    }
}

/// How many of `n` tokens a budget is.
fn count(budget: Budget, n: usize) -> usize {
    match budget {
        Budget::Count(count) => count.min(n),
        Budget::Percent(percent) if percent > 0.0 => ((percent / 100.0 * n as f64).round() as usize).max(1),
        Budget::Percent(_) => 0,
    }
}
