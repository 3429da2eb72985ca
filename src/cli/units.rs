//! Numbers for human eyes.

/// `312.5 MiB`
pub fn bytes(n_bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    scaled(n_bytes as f64, 1024.0, &UNITS)
}

/// `3.82 TFLOP`
pub fn flops(n_flops: f64) -> String {
    const UNITS: [&str; 6] = ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"];
    scaled(n_flops, 1000.0, &UNITS)
}

/// `6.74 B`, of weights
pub fn count(n: u64) -> String {
    const UNITS: [&str; 5] = ["", "thousand", "million", "billion", "trillion"];
    scaled(n as f64, 1000.0, &UNITS).trim_end().to_owned()
}

/// `84 ms`, `1.27 s`, `2 min 05 s`
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms if ms < 59_995.0 => format!("{:.2} s", ms / 1e3),
        ms => {
            let seconds = (ms / 1e3).round() as u64;
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        }
    }
}

/// How much less `actual` is than `dense`: `-62 %`.
pub fn saved(dense: f64, actual: f64) -> String {
    if dense <= 0.0 {
        return "-0 %".to_owned();
    }
    let percent = (1.0 - actual / dense) * 100.0;
    let sign = if percent < -0.5 { '+' } else { '-' };
    format!("{sign}{:.0} %", percent.abs())
}

/// Three significant digits and the largest unit that leaves at least 1 before the point.
fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(327_680_000), "312 MiB");
        assert_eq!(flops(3.82e12), "3.82 TFLOP");
        assert_eq!(flops(999_999.0), "1.00 MFLOP");
        assert_eq!(count(6_738_417_664), "6.74 billion");
        assert_eq!(count(512), "512");
    }

    #[test]
    fn durations_from_microseconds_to_minutes() {
        assert_eq!(milliseconds(0.25), "0.2 ms");
        assert_eq!(milliseconds(84.4), "84 ms");
        assert_eq!(milliseconds(1274.0), "1.27 s");
        assert_eq!(milliseconds(125_000.0), "2 min 05 s");
    }

    #[test]
    fn savings_are_relative_to_dense() {
        assert_eq!(saved(200.0, 76.0), "-62 %");
        assert_eq!(saved(100.0, 110.0), "+10 %");
        assert_eq!(saved(0.0, 0.0), "-0 %");
    }
}
