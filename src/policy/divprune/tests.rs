//! Against the definition, with the full matrix of distances in double precision.

use super::*;
use crate::policy::before::BeforeModel;
use crate::policy::budget::Budget;
use crate::policy::{Decision, Embeddings, Needs, StagePolicy};

/// A small linear congruential generator, from -1 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as f64 / f64::from(1_u32 << 30) - 1.0) as f32
    }
}

fn all(n: usize) -> Vec<VisionIndex> {
    (0..n as u32).map(VisionIndex).collect()
}

fn select(vision: &[f32], n_embd: usize, n: usize, present: &[VisionIndex]) -> Vec<u32> {
    let embeddings = Embeddings {
        n_embd,
        vision,
        text: None,
    };
    let kept = MaxMinDistance.select(n, present, &embeddings);
    kept.into_iter().map(|token| token.0).collect()
}

/// The greedy choice as it is written in the module's text.
fn literal(rows: &[Vec<f64>], n: usize) -> Vec<usize> {
    let distance = |i: usize, j: usize| {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let norms = (product(&rows[i], &rows[i]) * product(&rows[j], &rows[j])).sqrt();
        1.0 - product(&rows[i], &rows[j]) / norms
    };
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < n {
        let mut best: Option<(f64, usize)> = None;
        for i in (0..rows.len()).filter(|i| !chosen.contains(i)) {
            let against: Vec<usize> = if chosen.is_empty() {
                (0..rows.len()).filter(|&j| j != i).collect()
            } else {
                chosen.clone()
            };
            let nearest = against
                .iter()
                .map(|&j| distance(i, j))
                .fold(f64::INFINITY, f64::min);
            if best.is_none_or(|(distance, _)| nearest > distance) {
                best = Some((nearest, i));
            }
        }
        chosen.push(best.unwrap().1);
    }
    chosen.sort_unstable();
    chosen
}

#[test]
fn the_choice_is_the_definition() {
    let mut random = Random(5);
    for (n, n_embd) in [(2, 3), (7, 5), (24, 16), (40, 37)] {
        let rows: Vec<Vec<f32>> = (0..n)
            .map(|_| {
                // Lengths differ, which must not matter.
                let length = 1.0 + 8.0 * random.next().abs();
                (0..n_embd).map(|_| length * random.next()).collect()
            })
            .collect();
        let vision: Vec<f32> = rows.concat();
        let exact: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| row.iter().copied().map(f64::from).collect())
            .collect();
        for budget in 1..n {
            let kept = select(&vision, n_embd, budget, &all(n));
            let expected: Vec<u32> = literal(&exact, budget).into_iter().map(|i| i as u32).collect();
            assert_eq!(kept, expected, "{budget} of {n}");
        }
    }
}

/// Four directions in the plane, at 0, 10, 90 and 200 degrees: nearest others are 10, 10, 80 and 110 degrees away.
#[test]
fn directions_in_the_plane() {
    let vision: Vec<f32> = [0.0_f32, 10.0, 90.0, 200.0]
        .iter()
        .flat_map(|degrees| [degrees.to_radians().cos(), degrees.to_radians().sin()])
        .collect();
    assert_eq!(select(&vision, 2, 1, &all(4)), [3]);
    // From 200 degrees, 10 is 170 away, 0 is 160, 90 is 110.
    assert_eq!(select(&vision, 2, 2, &all(4)), [1, 3]);
    assert_eq!(select(&vision, 2, 3, &all(4)), [1, 2, 3]);
}

#[test]
fn ties_go_to_the_earlier_token() {
    // Four unit vectors along the axes: all distances are 1.
    let mut vision = vec![0.0; 16];
    (0..4).for_each(|i| vision[5 * i] = 1.0);
    assert_eq!(select(&vision, 4, 2, &all(4)), [0, 1]);
    // The same token over and over.
    assert_eq!(select(&[1.0; 12], 3, 2, &all(4)), [0, 1]);
}

#[test]
fn only_tokens_present_are_compared_and_kept() {
    let mut random = Random(3);
    let vision: Vec<f32> = (0..60).map(|_| random.next()).collect();
    let present: Vec<VisionIndex> = [1, 4, 5, 9].map(VisionIndex).to_vec();
    let apart: Vec<f32> = present
        .iter()
        .flat_map(|token| vision[token.0 as usize * 6..][..6].to_vec())
        .collect();
    let expected: Vec<u32> = select(&apart, 6, 2, &all(4))
        .into_iter()
        .map(|i| present[i as usize].0)
        .collect();
    assert_eq!(select(&vision, 6, 2, &present), expected);
}

#[test]
fn zeros_and_single_tokens_are_no_trouble() {
    assert_eq!(select(&[0.0, 0.0, 1.0, 0.0], 2, 1, &all(2)), [0]);
    let mut policy = BeforeModel::new(MaxMinDistance, Budget::Count(1), 1);
    assert_eq!(policy.needs_embeddings(), Needs::Vision);
    let embeddings = Embeddings {
        n_embd: 2,
        vision: &[1.0, 2.0],
        text: None,
    };
    assert_eq!(policy.start(&all(1), &embeddings), Decision::KeepAll);
}
