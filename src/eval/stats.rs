//! Intervals. Where there is a closed form it is used; elsewhere the percentile bootstrap with a fixed seed, so that
//! the same answers always give the same figures.
//!
//! All of them take questions as independent. Several questions about one picture are not quite, which makes the
//! intervals a little too narrow.

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// The 97.5 % quantile of the normal distribution: intervals hold 95 %.
const Z: f64 = 1.959_964;
/// Resamples of a bootstrap.
const N_RESAMPLES: usize = 2000;
const SEED: u64 = 0x5eed;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The proportion of `n_right` among `n`, with Wilson's interval (Wilson, 1927; equation as in Brown, Cai and
/// DasGupta, Statistical Science 2001). `None` for `n` = 0.
pub(crate) fn proportion(n_right: usize, n: usize) -> Option<Estimate> {
    if n == 0 {
        return None;
    }
    let (p, n, z2) = (n_right as f64 / n as f64, n as f64, Z * Z);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Some(Estimate {
        value: p,
        low: (centre - half).max(0.0),
        high: (centre + half).min(1.0),
    })
}

/// The mean, with a bootstrap interval. `None` without values.
pub(super) fn mean(values: &[f64]) -> Option<Estimate> {
    bootstrap(values.len(), |chosen| {
        let sum: f64 = chosen.iter().map(|&i| values[i]).sum();
        Some(sum / chosen.len() as f64)
    })
}

/// A figure of `n` items, with its percentile bootstrap interval (Efron, 1979): `figure` gets the indices of the items
/// to take, with repetitions. `None` if there are no items or no figure of all of them; resamples without a figure are
/// left out.
pub(super) fn bootstrap(n: usize, figure: impl Fn(&[usize]) -> Option<f64>) -> Option<Estimate> {
    let mut chosen: Vec<usize> = (0..n).collect();
    let value = figure(&chosen).filter(|_| n > 0)?;
    let mut rng = Rng::new(SEED);
    let mut resampled = Vec::with_capacity(N_RESAMPLES);
    for _ in 0..N_RESAMPLES {
        chosen.iter_mut().for_each(|i| *i = rng.below(n));
        resampled.extend(figure(&chosen));
    }
    resampled.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = (q * resampled.len() as f64) as usize;
        resampled
            .get(at.min(resampled.len().saturating_sub(1)))
            .copied()
            .unwrap_or(value)
    };
    Some(Estimate {
        value,
        low: quantile(0.025),
        high: quantile(0.975),
    })
}

/// The difference of two proportions on the same `n` items, of which `gained` became right and `lost` wrong, with the
/// adjusted Wald interval for matched pairs of Agresti and Min (Statistics in Medicine 2005), which adds 1/2 to each
/// of the four counts and so has a width even where nothing changed.
pub(super) fn paired_proportions(gained: usize, lost: usize, n: usize) -> Option<Estimate> {
    if n == 0 {
        return None;
    }
    let (b, c, m) = (lost as f64 + 0.5, gained as f64 + 0.5, n as f64 + 2.0);
    let centre = (c - b) / m;
    let half = Z * (b + c - (c - b) * (c - b) / m).sqrt() / m;
    Some(Estimate {
        value: (gained as f64 - lost as f64) / n as f64,
        low: (centre - half).max(-1.0),
        high: (centre + half).min(1.0),
    })
}

/// McNemar's test (1947) in its exact, two-sided form: how likely a split of the changed items at least this uneven
/// is if either direction is as likely. 1 where nothing changed.
pub(super) fn mcnemar(gained: usize, lost: usize) -> f64 {
    let n = gained + lost;
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = ln_term.exp();
    for k in 1..=gained.min(lost) {
        ln_term += ((n - k + 1) as f64 / k as f64).ln();
        tail += ln_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// The middle value, or the mean of the two in the middle. `None` without values.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(if values.len() % 2 == 1 {
        upper
    } else {
        (values[values.len() / 2 - 1] + upper) / 2.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(estimate: Option<Estimate>, value: f64, low: f64, high: f64) -> bool {
        let found = estimate.unwrap();
        [(found.value, value), (found.low, low), (found.high, high)]
            .iter()
            .all(|(a, b)| (a - b).abs() < 5e-5)
    }

    /// 8 of 10 gives 0.4902 to 0.9433, 0 of 10 gives 0 to z^2 / (10 + z^2) = 0.2775.
    #[test]
    fn wilsons_interval() {
        assert!(is_near(proportion(8, 10), 0.8, 0.49016, 0.94331));
        assert!(is_near(proportion(0, 10), 0.0, 0.0, 0.27753));
        assert!(is_near(proportion(10, 10), 1.0, 0.72247, 1.0));
        assert_eq!(proportion(0, 0), None);
    }

    /// 98 items, 10 lost: (0.5 - 10.5) / 100 = -0.1, half width 1.96 * sqrt(11 - 1) / 100 = 0.06198.
    #[test]
    fn a_paired_difference() {
        assert!(is_near(
            paired_proportions(0, 10, 98),
            -10.0 / 98.0,
            -0.16198,
            -0.03802
        ));
        assert!(is_near(paired_proportions(0, 0, 98), 0.0, -0.0196, 0.0196));
        assert_eq!(paired_proportions(0, 0, 0), None);
    }

    /// 2 * (1 + 7) / 2^7, 2 / 2^10, and a binomial tail of 2,000 throws that is computed without underflow.
    #[test]
    fn mcnemars_exact_test() {
        assert!((mcnemar(1, 6) - 0.125).abs() < 1e-12);
        assert!((mcnemar(10, 0) - 2.0 / 1024.0).abs() < 1e-12);
        assert_eq!((mcnemar(0, 0), mcnemar(5, 5)), (1.0, 1.0));
        // normal approximation with continuity correction: (1050 - 950 - 1) / sqrt(2000) = 2.214, p = 0.0268
        assert!((mcnemar(950, 1050) - 0.0268).abs() < 5e-4);
    }

    /// The standard error of the mean of 200 zeros and 200 ones is 0.025, hence an interval of about 0.049 each way.
    #[test]
    fn a_bootstrap_is_as_wide_as_theory_says_and_repeats() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let estimate = mean(&values).unwrap();
        assert_eq!(estimate.value, 0.5);
        assert!(
            (estimate.low - 0.451).abs() < 0.006 && (estimate.high - 0.549).abs() < 0.006,
            "{estimate:?}"
        );
        assert_eq!(mean(&values), Some(estimate));
        assert_eq!(mean(&[]), None);
        assert_eq!(
            mean(&[0.3]),
            Some(Estimate {
                value: 0.3,
                low: 0.3,
                high: 0.3
            })
        );
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
