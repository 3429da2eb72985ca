//! How likely a token was, and which ones would have been likelier.

/// A token of an answer, and how likely the model held it before anything was done to its logits.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token that was chosen.
    pub token: i32,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The most likely tokens and the logarithms of their probabilities, the most likely one first.
    pub top: Vec<(i32, f32)>,
}

/// The logarithms of the probabilities that some logits `[n_vocab]` stand for.
pub(super) struct Logprobs<'a> {
    logits: &'a [f32],
    /// The logarithm of the sum of their exponentials.
    norm: f64,
}

impl<'a> Logprobs<'a> {
    pub(super) fn of(logits: &'a [f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        Self {
            logits,
            norm: f64::from(largest) + sum.ln(),
        }
    }

    fn of_token(&self, token: usize) -> f32 {
        (f64::from(self.logits[token]) - self.norm) as f32
    }

    /// The `n` most likely tokens, in order; of equal ones the first.
    pub(super) fn top(&self, n: usize) -> Vec<(i32, f32)> {
        let mut order: Vec<usize> = (0..self.logits.len()).collect();
        let before = |a: &usize, b: &usize| self.logits[*b].total_cmp(&self.logits[*a]).then(a.cmp(b));
        if n < order.len() {
            order.select_nth_unstable_by(n, before);
            order.truncate(n);
        }
        order.sort_unstable_by(before);
        order
            .into_iter()
            .map(|token| (token as i32, self.of_token(token)))
            .collect()
    }

    /// A token that was chosen, beside the `n_top` most likely ones.
    pub(super) fn chosen(&self, token: i32, n_top: usize) -> TokenLogprob {
        TokenLogprob {
            token,
            logprob: self.of_token(token as usize),
            top: self.top(n_top),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_a_softmax() {
        let weights = [1.0f32, 4.0, 2.0, 1.0];
        let logits = weights.map(|weight| weight.ln() + 300.0);
        let chosen = Logprobs::of(&logits).chosen(2, 3);
        let expected = |weight: f32| (weight / 8.0).ln();
        assert!((chosen.logprob - expected(2.0)).abs() < 1e-4, "{chosen:?}");
        let tokens: Vec<i32> = chosen.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [1, 2, 0]);
        assert!((chosen.top[0].1 - expected(4.0)).abs() < 1e-4, "{chosen:?}");
        assert_eq!(Logprobs::of(&logits).top(9).len(), 4);
        assert!(Logprobs::of(&logits).top(0).is_empty());
    }
}
