//! Vision sinks: tokens whose value vector is not of the size of the others'.

/// Between these, values are ordinary. Computed on logarithms, so that a value of a tenth of the median stands as far
/// apart as one of ten times the median: the lower quartile divided by, and the upper one multiplied by, the cube of
/// their ratio (Tukey's outer fences, three times the distance of the quartiles).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fences {
    /// Lower quartile, median, upper quartile.
    pub quartiles: [f64; 3],
    /// Values below are outliers.
    pub low: f64,
    /// Values above are outliers.
    pub high: f64,
}

/// The distance of a fence from its quartile, in distances of the quartiles.
const REACH: f64 = 3.0;
/// Quartiles closer than this (in logarithms) are taken to be so far apart: rounding alone makes no outlier.
const LEAST_SPREAD: f64 = 0.02;

impl Fences {
    /// Of `values`, which are 0 or more; `None` if none of them is above 0.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut logs: Vec<f64> = values
            .iter()
            .filter(|value| **value > 0.0)
            .map(|value| value.ln())
            .collect();
        if logs.is_empty() {
            return None;
        }
        logs.sort_by(f64::total_cmp);
        let [lower, median, upper] = [0.25, 0.5, 0.75].map(|share| quantile(&logs, share));
        let reach = REACH * (upper - lower).max(LEAST_SPREAD);
        Some(Self {
            quartiles: [lower.exp(), median.exp(), upper.exp()],
            low: (lower - reach).exp(),
            high: (upper + reach).exp(),
        })
    }

    /// Whether a value stands apart.
    pub fn exclude(&self, value: f64) -> bool {
        value < self.low || value > self.high
    }
}

/// Between two sorted values in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (at - at.floor()) * (above - below)
}

/// The indices of the values outside of their own fences, ascending.
pub fn outliers(values: &[f64]) -> Vec<usize> {
    let Some(fences) = Fences::of(values) else {
        return Vec::new();
    };
    let apart = values
        .iter()
        .enumerate()
        .filter(|(_, value)| fences.exclude(**value));
    apart.map(|(i, _)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quartiles of powers of two are powers of two: 2, 4, 8 of 1, 2, 4, 8, 16; fences at 2 / 4^3 and 8 * 4^3.
    #[test]
    fn fences_are_three_ratios_away() {
        let fences = Fences::of(&[16.0, 1.0, 4.0, 8.0, 2.0]).unwrap();
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
        assert!(
            fences
                .quartiles
                .into_iter()
                .zip([2.0, 4.0, 8.0])
                .all(|(a, b)| close(a, b))
        );
        assert!(close(fences.low, 2.0 / 64.0) && close(fences.high, 8.0 * 64.0));
    }

    #[test]
    fn small_and_great_values_stand_apart() {
        let mut values = vec![1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02, 0.98];
        assert_eq!(outliers(&values), Vec::<usize>::new());
        values[2] = 0.01;
        values[5] = 30.0;
        assert_eq!(outliers(&values), [2, 5]);
    }

    #[test]
    fn equal_values_and_none() {
        assert!(
            outliers(&[3.0; 6]).is_empty() && outliers(&[]).is_empty() && outliers(&[0.0, 0.0]).is_empty()
        );
        assert!(outliers(&[1.0, 1.0001, 1.0, 1.0, 1.0, 1.0]).is_empty());
    }
}
