//! From values to pixels, and the ticks between.

/// How values are spread over an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By their logarithm. Values that are not above 0 are drawn at the lowest one that is.
    Log,
}

/// What an axis says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Axis {
    /// What is measured, with its unit.
    pub title: String,
    /// What follows the number at each tick, such as ` %`.
    pub suffix: String,
    /// How values are spread.
    pub scale: Scale,
    /// The axis begins at 0.
    pub from_zero: bool,
    /// Ticks stand at whole numbers only: layers, tokens.
    pub whole: bool,
    /// Values beyond which the axis does not go, as nothing can be there: 0 and 100 for percentages.
    pub limits: Option<[f64; 2]>,
}

/// An axis at its place.
pub(super) struct Placed {
    scale: Scale,
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

/// A tick: its value and what stands at it.
#[derive(Debug, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    pub text: String,
}

/// Space between the outermost values and the ends of an axis, relative to their distance.
const PADDING: f64 = 0.06;

impl Axis {
    /// The axis over `values`, from pixel `start` to pixel `end`.
    pub(super) fn place(&self, values: impl Iterator<Item = f64>, start: f64, end: f64) -> Placed {
        let usable =
            values.filter(|value| value.is_finite() && (self.scale == Scale::Linear || *value > 0.0));
        let (mut low, mut high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if low > high {
            (low, high) = if self.scale == Scale::Log {
                (1.0, 10.0)
            } else {
                (0.0, 1.0)
            };
        }
        let (low, high) = match self.scale {
            Scale::Log => (low / 1.25, high * 1.25),
            Scale::Linear => self.padded(low, high),
        };
        Placed {
            scale: self.scale,
            low,
            high,
            start,
            end,
        }
    }

    fn padded(&self, low: f64, high: f64) -> (f64, f64) {
        let low = if self.from_zero { low.min(0.0) } else { low };
        let span = if high > low {
            high - low
        } else {
            high.abs().max(1.0)
        };
        let [floor, ceiling] = self.limits.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
        let padded_low = if self.from_zero && low == 0.0 {
            0.0
        } else {
            low - PADDING * span
        };
        (
            padded_low.max(floor.min(low)),
            (high + PADDING * span).min(ceiling.max(high)),
        )
    }

    /// About `n` ticks.
    pub(super) fn ticks(&self, placed: &Placed, n: usize) -> Vec<Tick> {
        let values = match self.scale {
            Scale::Linear => linear_ticks(placed.low, placed.high, n, self.whole),
            Scale::Log => log_ticks(placed.low, placed.high),
        };
        let step = values
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .fold(f64::INFINITY, f64::min);
        let tick = |&value: &f64| Tick {
            value,
            text: format!(
                "{}{}",
                number(value, if self.scale == Scale::Log { value } else { step }),
                self.suffix
            ),
        };
        values.iter().map(tick).collect()
    }
}

impl Placed {
    /// The pixel of a value.
    pub fn at(&self, value: f64) -> f64 {
        let fraction = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
        };
        self.start + fraction * (self.end - self.start)
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64, n: usize, whole: bool) -> Vec<f64> {
    let rough = (high - low) / n.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= rough * 0.999);
    let step = step.unwrap_or(power * 10.0);
    let step = if whole { step.max(1.0) } else { step };
    let (first, last) = (
        (low / step - 1e-9).ceil() as i64,
        (high / step + 1e-9).floor() as i64,
    );
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Powers of ten; with 2 and 5 between them where there are few.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let n_decades = (high / low).log10();
    let factors: &[f64] = if n_decades < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = (n_decades / 8.0).ceil().max(1.0) as i32;
    let ticks = powers.filter(|power| power % every == 0);
    let ticks = ticks.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
    ticks.filter(|tick| (low..=high).contains(tick)).collect()
}

/// A number with as many decimals as a step of `step` needs, in scientific notation where that is shorter.
fn number(value: f64, step: f64) -> String {
    if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:.0e}").replace('-', "−");
    }
    let decimals = if step.is_finite() && step > 0.0 {
        (-(step.log10() + 1e-9).floor()).max(0.0) as usize
    } else {
        0
    };
    format!("{:.decimals$}", value + 0.0).replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis, low: f64, high: f64) -> Vec<String> {
        let placed = axis.place([low, high].into_iter(), 0.0, 100.0);
        axis.ticks(&placed, 5).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let percent = Axis {
            suffix: " %".to_owned(),
            ..Axis::default()
        };
        assert_eq!(texts(&percent, 0.0, 100.0), ["0 %", "50 %", "100 %"]);
        assert_eq!(
            texts(&Axis::default(), 97.1, 98.9),
            ["97.0", "97.5", "98.0", "98.5", "99.0"]
        );
        assert_eq!(
            texts(&Axis::default(), -0.02, 0.02),
            ["−0.02", "−0.01", "0.00", "0.01", "0.02"]
        );
        let whole = Axis {
            whole: true,
            ..Axis::default()
        };
        assert_eq!(texts(&whole, 0.0, 3.0), ["0", "1", "2", "3"]);
    }

    #[test]
    fn log_ticks_are_decades_or_thirds_of_them() {
        let log = Axis {
            scale: Scale::Log,
            ..Axis::default()
        };
        assert_eq!(
            texts(&log, 0.01, 10.0),
            ["0.01", "0.10", "1", "10"].map(|t| t.replace("0.10", "0.1"))
        );
        assert_eq!(texts(&log, 1.0, 10.0), ["1", "2", "5", "10"]);
        assert_eq!(texts(&log, 1e-6, 1e-4).first().map(String::as_str), Some("1e−6"));
    }

    #[test]
    fn values_land_between_the_ends() {
        let axis = Axis {
            from_zero: true,
            limits: Some([0.0, 100.0]),
            ..Axis::default()
        };
        let placed = axis.place([20.0, 100.0].into_iter(), 10.0, 110.0);
        assert_eq!(
            (placed.at(0.0), placed.at(50.0), placed.at(100.0)),
            (10.0, 60.0, 110.0)
        );
        let log = Axis {
            scale: Scale::Log,
            ..Axis::default()
        };
        let placed = log.place([1.0, 100.0].into_iter(), 0.0, 1.0);
        assert!((placed.at(10.0) - 0.5).abs() < 1e-12);
        assert_eq!(placed.at(0.0), 0.0);
    }

    #[test]
    fn an_axis_without_values_or_with_one() {
        let placed = Axis::default().place(std::iter::empty(), 0.0, 100.0);
        assert!(placed.at(0.5).is_finite());
        let placed = Axis::default().place([7.0].into_iter(), 0.0, 100.0);
        assert!((placed.at(7.0) - 50.0).abs() < 1e-9);
    }
}
