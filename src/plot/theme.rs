//! Colours and type.

/// Series colours on light and on dark ground, and a marker's shape. Each is at least 4.5 : 1 against its ground, as
/// labels are written in it.
const SERIES: [(&str, &str); 8] = [
    ("#0b5fa5", "#6db8f5"),
    ("#b8420a", "#ff9a62"),
    ("#08745a", "#4fd0a8"),
    ("#93308a", "#e79adf"),
    ("#7d5c00", "#e6be4a"),
    ("#4a5560", "#aeb9c4"),
    ("#0f7285", "#5fd3e6"),
    ("#8c2f39", "#f2919b"),
];

/// Number of different series colours; further series begin again.
pub const N_COLOURS: usize = SERIES.len();

const FONT: &str = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif";

/// Sizes of text in pixels.
pub const TITLE: f64 = 19.0;
pub const BODY: f64 = 13.0;
pub const SMALL: f64 = 11.5;

/// The style sheet. Rules begin with the chart's own class, so that a chart inside a page leaves the page alone.
pub fn style_sheet() -> String {
    let mut light = rules(
        ["#ffffff", "#1c232b", "#56616c", "#e6e9ed", "#a5afb9"],
        |(light, _)| light,
    );
    let dark = rules(
        ["#14181d", "#e8ecf0", "#a3adb8", "#2a3138", "#66717c"],
        |(_, dark)| dark,
    );
    light.insert_str(
        0,
        &format!(
            ".vp-chart text{{font-family:{FONT};font-size:{BODY}px;font-variant-numeric:tabular-nums}}\
             .vp-chart .title{{font-size:{TITLE}px;font-weight:600}}\
             .vp-chart .small{{font-size:{SMALL}px}}\
             .vp-chart .strong{{font-weight:600}}\
             .vp-chart .halo{{paint-order:stroke;stroke-width:3.5px;stroke-linejoin:round}}\
             .vp-chart .none{{fill:none}}"
        ),
    );
    format!("{light}@media (prefers-color-scheme:dark){{{dark}}}")
}

fn rules(
    [surface, ink, muted, grid, axis]: [&str; 5],
    pick: fn((&'static str, &'static str)) -> &'static str,
) -> String {
    let mut rules = format!(
        ".vp-chart .surface{{fill:{surface}}}.vp-chart .halo{{stroke:{surface}}}.vp-chart text{{fill:{ink}}}\
         .vp-chart .muted{{fill:{muted}}}.vp-chart .grid{{stroke:{grid}}}.vp-chart .axis{{stroke:{axis}}}\
         .vp-chart .ink{{stroke:{ink}}}.vp-chart .band{{stroke:{axis};stroke-opacity:.6}}\
         .vp-chart .hollow{{fill:{surface}}}"
    );
    for (i, colours) in SERIES.into_iter().enumerate() {
        let colour = pick(colours);
        rules += &format!(".vp-chart .f{i}{{fill:{colour}}}.vp-chart .l{i}{{stroke:{colour}}}");
    }
    rules
}

/// About how many pixels wide a text is, in a wide sans serif typeface (Verdana's and DejaVu Sans's widths).
pub fn text_width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '|' | '.' | ',' | ':' | ';' | '\'' | '!' => 0.33,
        ' ' | 'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '/' | '-' | '·' => 0.40,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '−' | '=' | '+' => 0.90,
        c if c.is_ascii_uppercase() => 0.72,
        c if c.is_ascii() => 0.62,
        _ => 0.80,
    };
    text.chars().map(em).sum::<f64>() * size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance and contrast as WCAG 2.1 defines them.
    fn contrast(a: &str, b: &str) -> f64 {
        let luminance = |colour: &str| {
            let channel = |i: usize| {
                let value = f64::from(u8::from_str_radix(&colour[i..i + 2], 16).unwrap()) / 255.0;
                if value <= 0.04045 {
                    value / 12.92
                } else {
                    ((value + 0.055) / 1.055).powf(2.4)
                }
            };
            0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn labels_can_be_read_on_both_grounds() {
        for (light, dark) in SERIES {
            assert!(contrast(light, "#ffffff") >= 4.5, "{light}");
            assert!(contrast(dark, "#14181d") >= 4.5, "{dark}");
        }
        assert!(contrast("#56616c", "#ffffff") >= 4.5 && contrast("#a3adb8", "#14181d") >= 4.5);
    }

    #[test]
    fn every_rule_stays_inside_the_chart() {
        let sheet = style_sheet();
        assert_eq!(sheet.matches('{').count(), sheet.matches('}').count());
        let n_rules = sheet.matches('{').count() - 1;
        assert_eq!(sheet.matches(".vp-chart ").count(), n_rules);
    }
}
