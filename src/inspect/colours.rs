//! The colours of heat maps: matplotlib's `inferno` (released as CC0), perceptually uniform, by 17 anchors with straight
//! lines between them. The report's script draws with the same anchors and opacity.

/// From no value to the greatest, red, green and blue.
pub const ANCHORS: [[u8; 3]; 17] = [
    [0, 0, 4],
    [11, 7, 36],
    [33, 12, 74],
    [61, 9, 101],
    [87, 16, 110],
    [113, 25, 110],
    [138, 34, 106],
    [163, 44, 97],
    [188, 55, 84],
    [208, 69, 69],
    [227, 89, 51],
    [241, 113, 31],
    [249, 140, 10],
    [252, 170, 15],
    [249, 201, 50],
    [242, 232, 101],
    [252, 255, 164],
];

/// Light that the grey picture below a heat map keeps, so that the darkest colours still stand apart from it.
pub const PICTURE_LIGHT: f64 = 0.62;

/// The colour of a share from 0 to 1; others count as the nearer end.
#[cfg(any(feature = "cli", test))]
pub fn colour(share: f64) -> [u8; 3] {
    let at = share.clamp(0.0, 1.0) * (ANCHORS.len() - 1) as f64;
    let (below, above) = (ANCHORS[at.floor() as usize], ANCHORS[at.ceil() as usize]);
    let t = at - at.floor();
    let mix =
        |i: usize| (f64::from(below[i]) + t * (f64::from(above[i]) - f64::from(below[i]))).round() as u8;
    [mix(0), mix(1), mix(2)]
}

/// How much of the colour is seen over the picture: all of it at the greatest value.
#[cfg(any(feature = "cli", test))]
pub fn opacity(share: f64) -> f64 {
    0.1 + 0.9 * share.clamp(0.0, 1.0).powf(0.6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CIE lightness, from sRGB.
    fn lightness(colour: [u8; 3]) -> f64 {
        let linear = colour.map(|channel| {
            let value = f64::from(channel) / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        });
        let y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
        if y > 216.0 / 24389.0 {
            116.0 * y.cbrt() - 16.0
        } else {
            y * 24389.0 / 27.0
        }
    }

    /// What makes the map perceptually uniform: lightness grows in proportion to the value.
    #[test]
    fn lightness_grows_evenly() {
        let steps: Vec<f64> = (0..=32).map(|i| lightness(colour(f64::from(i) / 32.0))).collect();
        assert!(steps.windows(2).all(|pair| pair[1] > pair[0]), "{steps:?}");
        let span = steps[32] - steps[0];
        for (i, lightness) in steps.iter().enumerate() {
            let even = steps[0] + span * i as f64 / 32.0;
            assert!(
                (lightness - even).abs() < 0.08 * span,
                "{i}: {lightness} is not {even}"
            );
        }
    }

    #[test]
    fn shares_beyond_the_ends_are_the_ends() {
        assert_eq!((colour(-1.0), colour(2.0)), (ANCHORS[0], ANCHORS[16]));
        assert_eq!(opacity(1.0), 1.0);
    }
}
