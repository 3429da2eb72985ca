//! An SVG document, written from front to back.

use std::fmt::Write;

use super::theme;

/// What a text's position is of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A document being written. Lengths are pixels, y runs downwards.
pub struct Svg {
    width: f64,
    height: f64,
    name: String,
    description: String,
    body: String,
}

impl Svg {
    /// `name` and `description` are what a screen reader says.
    pub fn new(width: f64, height: f64, name: &str, description: &str) -> Self {
        Self {
            width,
            height,
            name: escape(name),
            description: escape(description),
            body: String::new(),
        }
    }

    /// Text whose base line is at `y`.
    pub fn text(&mut self, (x, y): (f64, f64), class: &str, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let class = if class.is_empty() {
            String::new()
        } else {
            format!(" class=\"{class}\"")
        };
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\"{class}{anchor}>{}</text>",
            escape(text)
        ));
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str, width: f64) {
        self.push(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\" stroke-width=\"{width}\"/>"
        ));
    }

    /// A line through points, with further attributes.
    pub fn polyline(&mut self, points: &[(f64, f64)], class: &str, attributes: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(format_args!(
            "<polyline points=\"{}\" class=\"none {class}\" stroke-linejoin=\"round\" stroke-linecap=\"round\" {attributes}/>",
            points.join(" ")
        ));
    }

    pub fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str, attributes: &str) {
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\" {attributes}/>"
        ));
    }

    /// A series' marker; its shape tells series apart without colour.
    pub fn marker(&mut self, (x, y): (f64, f64), series: usize, hollow: bool) {
        let i = series % theme::N_COLOURS;
        let fill = if hollow {
            "hollow".to_owned()
        } else {
            format!("f{i}")
        };
        let style = format!("class=\"{fill} l{i}\" stroke-width=\"2\" stroke-linejoin=\"round\"");
        let polygon = |offsets: &[(f64, f64)]| {
            let points: Vec<String> = offsets
                .iter()
                .map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy))
                .collect();
            format!("<polygon points=\"{}\" {style}/>", points.join(" "))
        };
        let shape = match series % 5 {
            0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.6\" {style}/>"),
            1 => polygon(&[(-4.2, -4.2), (4.2, -4.2), (4.2, 4.2), (-4.2, 4.2)]),
            2 => polygon(&[(0.0, -5.6), (5.2, 3.8), (-5.2, 3.8)]),
            3 => polygon(&[(0.0, -5.8), (5.8, 0.0), (0.0, 5.8), (-5.8, 0.0)]),
            _ => polygon(&[(0.0, 5.6), (5.2, -3.8), (-5.2, -3.8)]),
        };
        self.push(format_args!("{shape}"));
    }

    /// Begins a group that shows `tooltip` under the pointer.
    pub fn open_tooltip(&mut self, tooltip: &str) {
        self.push(format_args!("<g><title>{}</title>", escape(tooltip)));
    }

    pub fn close_group(&mut self) {
        self.push(format_args!("</g>"));
    }

    fn push(&mut self, text: std::fmt::Arguments) {
        let _ = writeln!(self.body, "{text}");
    }

    /// The document.
    pub fn finish(self) -> String {
        let Self {
            width,
            height,
            name,
            description,
            body,
        } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" class=\"vp-chart\" role=\"img\" aria-label=\"{name}\">\n<desc>{description}</desc>\n\
             <style>{}</style>\n<rect width=\"100%\" height=\"100%\" class=\"surface\"/>\n{body}</svg>\n",
            theme::style_sheet()
        )
    }
}

/// Text that may stand in an element or in an attribute in double quotes. Characters that XML has no place for go.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() && !['\n', '\t'].contains(&c) => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_place() {
        let mut svg = Svg::new(10.0, 10.0, "a \"b\" <c>", "x & y");
        svg.text((1.0, 2.0), "", Anchor::Start, "</text><script>\u{1b}");
        let document = svg.finish();
        assert!(!document.contains("<script>") && !document.contains('\u{1b}'));
        assert!(
            document.contains("aria-label=\"a &quot;b&quot; &lt;c&gt;\"") && document.contains("x &amp; y")
        );
    }
}
