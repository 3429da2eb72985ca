//! How much each vision token contributes to the last prompt token, in closed form.
//!
//! For vision token `j` the contribution is `c_j = concat_h(a[h][last][j] * v[g(h)][j])` and `o` is the attention
//! output of the last prompt token before the output projection (VisiPruner, section 3.4). The probe delivers
//! `||c_j||^2`, `o . c_j` and `||o||^2`; the rest is done here in double precision, because `1 - cos` is about 1e-3
//! where the decision falls.

use super::ProbeReading;

/// `cos(o - c_j, o)` from the three sums.
///
/// `cos = (||o||^2 - o.c) / (||o|| * sqrt(||o||^2 - 2 o.c + ||c||^2))`, limited to [-1, 1]. Where a vector is zero the
/// cosine is not defined: if `o` is zero no token matters, and the result is 1; if `o - c_j` is zero the token is the
/// whole output, and the result is 0.
pub fn cosine_without(output_norm2: f64, dot: f64, norm2: f64) -> f64 {
    if output_norm2 <= 0.0 {
        return 1.0;
    }
    let rest_norm2 = output_norm2 - 2.0 * dot + norm2;
    if rest_norm2 <= 0.0 {
        return 0.0;
    }
    ((output_norm2 - dot) / (output_norm2.sqrt() * rest_norm2.sqrt())).clamp(-1.0, 1.0)
}

impl ProbeReading {
    /// `cos(o - c_j, o)` per token present, parallel to `tokens`.
    pub fn cosines(&self) -> Vec<f64> {
        self.dot
            .iter()
            .zip(&self.norm2)
            .map(|(&dot, &norm2)| cosine_without(self.output_norm2, dot, norm2))
            .collect()
    }

    /// `||c_j||` per token present, parallel to `tokens`.
    pub fn norms(&self) -> Vec<f64> {
        self.norm2.iter().map(|norm2| norm2.max(0.0).sqrt()).collect()
    }

    /// `||c_j|| / ||o||` per token present, parallel to `tokens`; 0 where `o` is zero.
    pub fn relative_norms(&self) -> Vec<f64> {
        let output_norm = self.output_norm2.max(0.0).sqrt();
        let relative = |norm: f64| {
            if output_norm > 0.0 {
                norm / output_norm
            } else {
                0.0
            }
        };
        self.norms().into_iter().map(relative).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::VisionIndex;

    /// Attention of one query: weights `[n_head][n_token]`, values `[n_head_kv][n_token][n_embd_head]`.
    struct Literal {
        weights: Vec<Vec<f64>>,
        values: Vec<Vec<Vec<f64>>>,
    }

    impl Literal {
        /// Grouped-query attention with numbers from a small linear congruential generator.
        fn random(n_head: usize, n_head_kv: usize, n_token: usize, n_embd_head: usize, seed: u64) -> Self {
            let mut state = seed;
            let mut next = move || {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (state >> 33) as f64 / (1u64 << 31) as f64
            };
            let weights = (0..n_head)
                .map(|_| {
                    let raw: Vec<f64> = (0..n_token).map(|_| next()).collect();
                    let sum: f64 = raw.iter().sum();
                    raw.iter().map(|w| w / sum).collect()
                })
                .collect();
            let values = (0..n_head_kv)
                .map(|_| {
                    (0..n_token)
                        .map(|_| (0..n_embd_head).map(|_| next() - 0.5).collect())
                        .collect()
                })
                .collect();
            Self { weights, values }
        }

        /// `c_j`, literally: `[n_head * n_embd_head]`.
        fn contribution(&self, j: usize) -> Vec<f64> {
            let per_group = self.weights.len() / self.values.len();
            self.weights
                .iter()
                .enumerate()
                .flat_map(|(h, weights)| self.values[h / per_group][j].iter().map(move |v| weights[j] * v))
                .collect()
        }

        fn output(&self) -> Vec<f64> {
            let n_token = self.weights[0].len();
            let mut sum = self.contribution(0);
            for j in 1..n_token {
                sum.iter_mut()
                    .zip(self.contribution(j))
                    .for_each(|(s, c)| *s += c);
            }
            sum
        }
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn closed_form_equals_the_definition() {
        for (n_head, n_head_kv) in [(4, 4), (8, 2), (3, 1)] {
            let literal = Literal::random(n_head, n_head_kv, 11, 6, 7 + n_head as u64);
            let o = literal.output();
            let tokens: Vec<usize> = (2..9).collect();
            let contributions: Vec<Vec<f64>> = tokens.iter().map(|&j| literal.contribution(j)).collect();
            let reading = ProbeReading {
                tokens: tokens.iter().map(|&j| VisionIndex(j as u32)).collect(),
                norm2: contributions.iter().map(|c| dot(c, c)).collect(),
                dot: contributions.iter().map(|c| dot(&o, c)).collect(),
                output_norm2: dot(&o, &o),
            };
            let (cosines, norms, relative) = (reading.cosines(), reading.norms(), reading.relative_norms());
            for (i, c) in contributions.iter().enumerate() {
                let rest: Vec<f64> = o.iter().zip(c).map(|(o, c)| o - c).collect();
                let expected = dot(&rest, &o) / (dot(&rest, &rest).sqrt() * dot(&o, &o).sqrt());
                assert!((cosines[i] - expected).abs() < 1e-12, "{} {expected}", cosines[i]);
                let norm = dot(c, c).sqrt();
                assert!((norms[i] - norm).abs() < 1e-12);
                assert!((relative[i] - norm / dot(&o, &o).sqrt()).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_zero_output_makes_no_token_matter() {
        assert_eq!(cosine_without(0.0, 0.0, 0.0), 1.0);
        let reading = ProbeReading {
            tokens: vec![VisionIndex(0)],
            norm2: vec![0.0],
            dot: vec![0.0],
            output_norm2: 0.0,
        };
        assert_eq!(reading.relative_norms(), [0.0]);
    }

    #[test]
    fn a_token_that_is_the_whole_output_has_cosine_zero() {
        assert_eq!(cosine_without(4.0, 4.0, 4.0), 0.0);
    }

    #[test]
    fn rounding_never_leaves_the_range_of_a_cosine() {
        assert_eq!(cosine_without(1.0, -1e-300, 0.0), 1.0);
        assert_eq!(cosine_without(1.0, 3.0, 9.0 - 1e-9), -1.0);
        let reading = ProbeReading {
            tokens: vec![VisionIndex(0)],
            norm2: vec![-1e-9],
            dot: vec![0.0],
            output_norm2: 1.0,
        };
        assert_eq!(reading.norms(), [0.0]);
    }
}
