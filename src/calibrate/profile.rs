//! The layer profile: how much the output changes when vision is hidden below a layer, and from a layer on
//! (VisiPruner, arXiv 2510.17205, figure 3 and table 8, on the output's distribution instead of a benchmark's score).

use serde::Serialize;

use super::score::{Score, Target};
use super::{Dense, Distance, Experiment, Runner, Step, Steps};

/// A layer and what hiding vision on one side of it does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProfilePoint {
    /// The layer.
    pub il: usize,
    /// How far the output is from dense.
    pub score: Score,
}

/// The effect of hiding vision, by layer.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Profile {
    /// Layers of the model.
    pub n_layer: usize,
    /// Prompts that it was measured on.
    pub n_prompts: usize,
    /// Vision hidden from text in the layers below `il`, ascending in `il`, which is 1 to `n_layer`. Of answers only
    /// the first token is compared.
    pub hidden_below: Vec<ProfilePoint>,
    /// Vision hidden from layer `il` on, ascending in `il`, which is 1 to the last layer.
    pub hidden_from: Vec<ProfilePoint>,
    /// Hiding vision in all layers below it stays within the target: nothing is read there that is needed. 0 if there is
    /// no such layer.
    pub reads_from: usize,
    /// Hiding vision from it on stays within the target: nothing is read there any more. The number of layers if there is
    /// no such layer.
    pub reads_until: usize,
}

impl Profile {
    /// Points that were measured.
    pub(super) fn n_points(&self) -> usize {
        self.hidden_below.len() + self.hidden_from.len()
    }

    /// Measures it on some prompts: every `stride`-th layer, and around the two layers that are looked for as many as
    /// halving the gap takes.
    pub(super) fn measure<R: Runner>(
        runner: &mut R,
        dense: &[Dense],
        prompts: &[usize],
        (target, stride): (&Target, usize),
    ) -> Result<Self, R::Error> {
        let n_layer = dense.first().map_or(0, Dense::n_layer);
        let mut sides = Sides {
            runner,
            dense,
            prompts,
            target,
            n_done: 0,
            n_total: n_runs(n_layer, stride, prompts.len()),
        };
        let below = |il: usize| Experiment::Hide(0..il);
        let (hidden_below, reads_from) = sides.measure(1..n_layer + 1, stride, &below, Side::Low)?;
        let (hidden_from, reads_until) =
            sides.measure(1..n_layer, stride, &Experiment::DropFrom, Side::High)?;
        Ok(Self {
            n_layer,
            n_prompts: prompts.len(),
            hidden_below,
            hidden_from,
            reads_from,
            reads_until,
        })
    }
}

/// Runs that a profile takes, at most.
pub(super) fn n_runs(n_layer: usize, stride: usize, n_prompts: usize) -> usize {
    let n_halvings = stride.next_power_of_two().trailing_zeros() as usize;
    let n_points = |n: usize| n.div_ceil(stride) + 1 + n_halvings;
    (n_points(n_layer).min(n_layer) + n_points(n_layer.saturating_sub(1)).min(n_layer.saturating_sub(1)))
        * n_prompts
}

/// Which end of the layers is near to dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Little is hidden at the low end.
    Low,
    /// Little is hidden at the high end.
    High,
}

struct Sides<'a, R> {
    runner: &'a mut R,
    dense: &'a [Dense],
    prompts: &'a [usize],
    target: &'a Target,
    n_done: usize,
    n_total: usize,
}

impl<R: Runner> Sides<'_, R> {
    /// The points of one side, and the last layer, seen from the near end, up to which all are within the target.
    fn measure(
        &mut self,
        layers: std::ops::Range<usize>,
        stride: usize,
        experiment: &dyn Fn(usize) -> Experiment,
        side: Side,
    ) -> Result<(Vec<ProfilePoint>, usize), R::Error> {
        let mut order: Vec<usize> = layers.clone().collect();
        // The layer at the near end that hides nothing, and is not measured.
        let mut near = layers.start - 1;
        if side == Side::High {
            order.reverse();
            near = layers.end;
        }
        let mut points = Vec::new();
        let mut far = None;
        let is_last = |i: usize| i + 1 == order.len();
        let coarse = (0..order.len()).filter(|&i| (i + 1) % stride == 0 || is_last(i));
        for il in coarse.map(|i| order[i]) {
            let score = self.score(&experiment(il))?;
            points.push(ProfilePoint { il, score });
            match (far, self.target.is_met(&score)) {
                (None, true) => near = il,
                (None, false) => far = Some(il),
                _ => {}
            }
        }
        while let Some(far_il) = far.filter(|&far_il| near.abs_diff(far_il) > 1) {
            let il = usize::midpoint(near, far_il);
            let score = self.score(&experiment(il))?;
            points.push(ProfilePoint { il, score });
            if self.target.is_met(&score) {
                near = il;
            } else {
                far = Some(il);
            }
        }
        points.sort_by_key(|point| point.il);
        Ok((points, near))
    }

    fn score(&mut self, experiment: &Experiment) -> Result<Score, R::Error> {
        let mut distances = Vec::with_capacity(self.prompts.len());
        for &i in self.prompts {
            self.runner.progress(Steps {
                step: Step::Profile,
                n_done: self.n_done,
                n_total: self.n_total,
            });
            let observed = self.runner.run(i, experiment)?;
            let dense = &self.dense[i].observed;
            distances.push(match experiment {
                Experiment::Hide(_) => Distance::of_first_token(dense, &observed),
                _ => Distance::between(dense, &observed),
            });
            self.n_done += 1;
        }
        Ok(Score::of(&distances, self.target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::fake::{Fake, dense_runs};

    const TARGET: Target = Target {
        max_kl: Some(0.01),
        max_changed: None,
    };

    fn profile(fake: &mut Fake, stride: usize) -> Profile {
        let dense = dense_runs(fake, 3);
        match Profile::measure(fake, &dense, &[0, 2], (&TARGET, stride)) {
            Ok(profile) => profile,
            Err(never) => match never {},
        }
    }

    fn layers(points: &[ProfilePoint]) -> Vec<usize> {
        points.iter().map(|point| point.il).collect()
    }

    /// Layers 14 to 16 of 24 read.
    #[test]
    fn any_stride_finds_the_same_layers() {
        for stride in [1, 2, 3, 5, 7, 16, 23, 24, 99] {
            let mut fake = Fake {
                n_layer: 24,
                reads: 14..17,
                ..Fake::default()
            };
            let profile = profile(&mut fake, stride);
            assert_eq!(
                (profile.reads_from, profile.reads_until),
                (14, 17),
                "stride {stride}"
            );
            assert!(profile.n_points() * 2 <= n_runs(24, stride, 2), "stride {stride}");
            assert_eq!(fake.runs.len(), profile.n_points() * 2);
        }
    }

    #[test]
    fn a_wide_stride_halves_the_gap() {
        let mut fake = Fake {
            n_layer: 24,
            reads: 14..17,
            ..Fake::default()
        };
        let profile = profile(&mut fake, 99);
        assert_eq!(layers(&profile.hidden_below), [12, 13, 14, 15, 18, 24]);
        assert_eq!(layers(&profile.hidden_from), [1, 12, 15, 16, 17, 18]);
    }

    #[test]
    fn a_model_that_never_looks_and_one_that_always_does() {
        let mut blind = Fake {
            reads: 4..4,
            ..Fake::default()
        };
        let found = profile(&mut blind, 1);
        assert_eq!((found.reads_from, found.reads_until), (10, 1));
        let mut staring = Fake {
            reads: 0..10,
            ..Fake::default()
        };
        let found = profile(&mut staring, 1);
        assert_eq!((found.reads_from, found.reads_until), (0, 10));
    }
}
