//! DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175): before the language model, the vision tokens that differ most
//! from each other go on.
//!
//! It reads the vision tokens' embeddings, as the projector made them. With `d(i, j) = 1 - cos(e_i, e_j)` it looks for
//! the subset of `budget` tokens whose smallest distance is as large as possible, greedily:
//!
//! - the first token is the one whose nearest other token is farthest: `argmax_i min_{j != i} d(i, j)`;
//! - each further one is the one farthest from all chosen: `argmax_i min_{j chosen} d(i, j)`.
//!
//! Among equals the earlier token is taken. The first token needs the distances of all pairs: `n^2 / 2` products of
//! width `n_embd`, once per prompt; the rest looks them up.
//!
//! Differences from the published code: it counts its ratio over one image, here the budget counts over all images
//! together and tokens of different images are compared, too; it computes in half precision, here in single; it leaves
//! ties to the device. A row of zeros has distance 1 from every other one, where the code divides by zero.

use super::before::Selection;
use super::{Embeddings, Needs, VisionIndex};

/// The greedy choice.
#[derive(Debug, Clone, Copy)]
pub struct MaxMinDistance;

impl Selection for MaxMinDistance {
    fn needs(&self) -> Needs {
        Needs::Vision
    }

    fn select(&self, n: usize, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Vec<VisionIndex> {
        let rows: Vec<Vec<f32>> = present
            .iter()
            .map(|&token| unit(embeddings.vision_row(token).unwrap_or_default()))
            .collect();
        let distances = Distances::of(&rows);
        let mut chosen: Vec<VisionIndex> = distances.greedy(n).into_iter().map(|i| present[i]).collect();
        chosen.sort_unstable();
        chosen
    }
}

/// `[n][n]`: the distances of all pairs.
struct Distances {
    n: usize,
    values: Vec<f32>,
}

impl Distances {
    /// Of vectors of length 1.
    fn of(rows: &[Vec<f32>]) -> Self {
        let n = rows.len();
        let mut values = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..i {
                let distance = 1.0 - dot(&rows[i], &rows[j]);
                values[i * n + j] = distance;
                values[j * n + i] = distance;
            }
        }
        Self { n, values }
    }

    fn from(&self, i: usize) -> &[f32] {
        &self.values[i * self.n..][..self.n]
    }

    fn to_nearest_other(&self, i: usize) -> f32 {
        let others = self.from(i).iter().enumerate().filter(|&(j, _)| j != i);
        others
            .map(|(_, &distance)| distance)
            .fold(f32::INFINITY, f32::min)
    }

    /// `n_chosen` indices in the order in which they are chosen.
    fn greedy(&self, n_chosen: usize) -> Vec<usize> {
        let mut to_chosen: Vec<f32> = (0..self.n).map(|i| self.to_nearest_other(i)).collect();
        let mut is_chosen = vec![false; self.n];
        let mut chosen = Vec::with_capacity(n_chosen.min(self.n));
        while let Some(next) = farthest(&to_chosen, &is_chosen)
            && chosen.len() < n_chosen
        {
            if chosen.is_empty() {
                to_chosen.fill(f32::INFINITY);
            }
            chosen.push(next);
            is_chosen[next] = true;
            for (nearest, &distance) in to_chosen.iter_mut().zip(self.from(next)) {
                *nearest = nearest.min(distance);
            }
        }
        chosen
    }
}

/// The first of the largest among those not chosen.
fn farthest(distance: &[f32], is_chosen: &[bool]) -> Option<usize> {
    let free = (0..distance.len()).filter(|&i| !is_chosen[i]);
    // `max_by` returns the last of equals.
    free.rev().max_by(|&a, &b| distance[a].total_cmp(&distance[b]))
}

/// A vector scaled to length 1; one of zeros stays.
fn unit(row: &[f32]) -> Vec<f32> {
    let norm = row
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
    row.iter().map(|&x| (f64::from(x) * scale) as f32).collect()
}

/// Independent partial sums, so that the compiler can use wide registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_blocks
        .remainder()
        .iter()
        .zip(b_blocks.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests;
