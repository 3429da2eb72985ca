//! How numbers and bytes are written into JSON: short, and read back as what was written.

use serde::{Serialize, Serializer};

/// Digits of a real number. Finer than any colour or tooltip shows.
const SIGNIFICANT: i32 = 4;
/// Decimals of a cosine: what matters is its distance from 1, which is about 1e-3 where decisions fall.
const COSINE_DECIMALS: f64 = 1e7;

/// The nearest number with four significant digits.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    // through text, as the nearest double of a decimal number is the one that is printed shortest
    let digits = (SIGNIFICANT - 1) as usize;
    format!("{value:.digits$e}").parse().unwrap_or(value)
}

fn rounded_cosine(value: f64) -> f64 {
    (value * COSINE_DECIMALS).round() / COSINE_DECIMALS
}

pub fn significant<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    rounded(*value).serialize(serializer)
}

pub fn significants<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().copied().map(rounded))
}

pub fn cosine<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(rounded_cosine).serialize(serializer)
}

pub fn cosines<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().copied().map(rounded_cosine))
}

/// Bytes as base64.
pub mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_digits_are_kept() {
        let cases = [
            (0.123456, 0.1235),
            (-98765.4, -98770.0),
            (1.0 / 3.0 * 1e-9, 3.333e-10),
            (0.0, 0.0),
            (12.0, 12.0),
        ];
        for (value, expected) in cases {
            assert_eq!(rounded(value), expected);
        }
    }

    /// A cosine is rounded by its distance from 1: 0.99987654 keeps what decides.
    #[test]
    fn cosines_keep_seven_decimals() {
        assert_eq!(rounded_cosine(0.999_876_543_21), 0.999_876_5);
        assert_eq!(rounded_cosine(1.0), 1.0);
    }
}
