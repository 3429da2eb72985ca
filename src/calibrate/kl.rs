//! How far one distribution of the next token is from another.

/// `KL(P || Q)` in nats, where `P` and `Q` are the softmax of two logit vectors `[n_vocab]` of the same length.
///
/// Computed in double precision with both normalisers in log space, so that logits of any size and differences of 1e-9
/// nats come out right. A token that `P` excludes (a logit of minus infinity) adds nothing; one that only `Q` excludes
/// makes the result infinite. Logits that are no numbers make it infinite, too, so that they never look near.
pub fn kl_divergence(p_logits: &[f32], q_logits: &[f32]) -> f64 {
    if p_logits.is_empty() || p_logits.len() != q_logits.len() {
        return f64::INFINITY;
    }
    let (p_norm, q_norm) = (log_sum_exp(p_logits), log_sum_exp(q_logits));
    let term = |(&p, &q): (&f32, &f32)| {
        let log_p = f64::from(p) - p_norm;
        let probability = log_p.exp();
        if probability > 0.0 {
            probability * (log_p - (f64::from(q) - q_norm))
        } else {
            probability
        }
    };
    let sum: f64 = p_logits.iter().zip(q_logits).map(term).sum();
    // Rounding can leave it a little below 0.
    if sum.is_nan() { f64::INFINITY } else { sum.max(0.0) }
}

/// `ln(sum(exp(x)))`
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&x| (f64::from(x) - f64::from(max)).exp())
        .sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition, with probabilities that have exact logarithms.
    #[test]
    fn two_distributions_by_hand() {
        let logits = |probabilities: [f64; 3]| probabilities.map(|p| p.ln() as f32);
        let (p, q) = (logits([0.5, 0.25, 0.25]), logits([0.25, 0.25, 0.5]));
        // 0.5 ln 2 + 0 + 0.25 ln 0.5 = 0.25 ln 2
        assert!((kl_divergence(&p, &q) - 0.25 * 2f64.ln()).abs() < 1e-6);
        // A constant on all logits is no difference.
        let shifted = p.map(|x| x + 700.0);
        assert!((kl_divergence(&shifted, &q) - 0.25 * 2f64.ln()).abs() < 1e-4);
    }

    #[test]
    fn the_same_is_at_distance_zero_however_large_the_logits() {
        let logits = [1e30, -1e30, 88.0, 1e30];
        assert_eq!(kl_divergence(&logits, &logits), 0.0);
    }

    /// `KL = sum(d^2 p) / 2 - (sum(d p))^2 / 2 + O(d^3)` for logits that differ by `d`: for two equally likely tokens and
    /// `d = (e, 0)` that is `e^2 / 8`.
    #[test]
    fn small_distances_are_not_lost() {
        let e = 2f32.powi(-12);
        let expected = f64::from(e).powi(2) / 8.0;
        let kl = kl_divergence(&[0.0, 0.0], &[e, 0.0]);
        assert!((kl / expected - 1.0).abs() < 1e-3, "{kl:e} {expected:e}");
    }

    #[test]
    fn what_cannot_be_compared_is_infinitely_far() {
        let excluded = kl_divergence(&[0.0, f32::NEG_INFINITY], &[0.0, 3.0]);
        assert!((excluded - 3f64.exp().ln_1p()).abs() < 1e-12);
        assert_eq!(
            kl_divergence(&[0.0, 0.0], &[0.0, f32::NEG_INFINITY]),
            f64::INFINITY
        );
        assert_eq!(kl_divergence(&[0.0, f32::NAN], &[0.0, 0.0]), f64::INFINITY);
        assert_eq!(kl_divergence(&[0.0], &[0.0, 0.0]), f64::INFINITY);
        assert_eq!(kl_divergence(&[], &[]), f64::INFINITY);
    }
}
