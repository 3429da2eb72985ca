//! The report: a template, a style sheet and a script, with the data between them.

use serde::Serialize;

use super::colours::{ANCHORS, PICTURE_LIGHT};
use super::data::Inspection;
use super::error::InspectError;
use super::outliers::outliers;

const TEMPLATE: &str = include_str!("assets/report.html");
const STYLE: &str = include_str!("assets/report.css");
/// One script each for: what all share, the head, the maps, sinks and kept sets, the lenses, and what starts them.
const SCRIPTS: [&str; 6] = [
    include_str!("assets/page.js"),
    include_str!("assets/head.js"),
    include_str!("assets/maps.js"),
    include_str!("assets/sets.js"),
    include_str!("assets/lens.js"),
    include_str!("assets/start.js"),
];

/// What follows from the data and is computed once, here.
#[derive(Serialize)]
struct Derived {
    /// Per layer: the vision tokens whose value vectors stand apart.
    sinks: Vec<Vec<usize>>,
    /// The layers in which the final word leads both from here to the end and for the first time.
    answer: Option<AnswerLayers>,
    /// The colour map.
    colours: [[u8; 3]; ANCHORS.len()],
    /// Light of the picture below it.
    picture_light: f64,
}

/// Where the model's first word shows in the logit lens.
#[derive(Debug, PartialEq, Serialize)]
struct AnswerLayers {
    /// What leads after the last layer: the first word of the answer.
    word: String,
    /// The first layer after which it leads.
    first: usize,
    /// The first layer from which on it always leads.
    settled: usize,
}

impl Inspection {
    /// The report as one HTML file that loads nothing.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn to_html(&self) -> Result<String, InspectError> {
        let data = self.to_json()?;
        let derived = Derived {
            sinks: self
                .layers
                .iter()
                .map(|layer| outliers(&layer.value_l1))
                .collect(),
            answer: self.answer_layers(),
            colours: ANCHORS,
            picture_light: PICTURE_LIGHT,
        };
        let derived = serde_json::to_string(&derived)?;
        let script = SCRIPTS.concat();
        Ok(fill(TEMPLATE, |name| match name {
            "title" => Some(escaped(&self.question)),
            "style" => Some(STYLE.to_owned()),
            "cosine_chart" => Some(self.cosine_chart().to_svg()),
            "value_chart" => Some(self.value_chart().to_svg()),
            "data" => Some(inside_script(&data)),
            "derived" => Some(inside_script(&derived)),
            "script" => Some(script.clone()),
            _ => None,
        }))
    }

    fn answer_layers(&self) -> Option<AnswerLayers> {
        let leader = |il: usize| self.layers[il].top.first().map(|word| word.text.as_str());
        let word = leader(self.n_layer.checked_sub(1)?)?;
        let leads = |il: &usize| leader(*il) == Some(word);
        let first = (0..self.n_layer).find(leads)?;
        let settled = self.n_layer - (0..self.n_layer).rev().take_while(leads).count();
        Some(AnswerLayers {
            word: word.to_owned(),
            first,
            settled,
        })
    }
}

/// The template with each `{{name}}` replaced once, from front to back: what is filled in is not looked at again.
fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        match after
            .split_once("}}")
            .and_then(|(name, after)| Some((value(name)?, after)))
        {
            Some((value, after)) => {
                filled.push_str(&value);
                rest = after;
            }
            None => {
                filled.push_str("{{");
                rest = after;
            }
        }
    }
    filled + rest
}

/// Text that may stand in an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// JSON that may stand in a script element: `<` occurs in strings only, where it may be written as an escape, so that
/// no `</script>` and no `<!--` is left.
fn inside_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::Word;
    use crate::inspect::tests::synthetic;

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        let value = |name: &str| match name {
            "a" => Some("{{b}}".to_owned()),
            "b" => Some("B".to_owned()),
            _ => None,
        };
        assert_eq!(fill("x {{a}} {{b}} {{c}} {{", value), "x {{b}} B {{c}} {{");
    }

    #[test]
    fn the_answer_leads_for_the_first_time_and_for_good() {
        let mut inspection = synthetic::small();
        let leaders = ["the", "a", "yes", "a", "the", "yes", "no", "yes", "yes", "yes"];
        for (layer, leader) in inspection.layers.iter_mut().zip(leaders) {
            layer.top = vec![Word {
                text: leader.to_owned(),
                probability: 0.5,
            }];
        }
        let expected = AnswerLayers {
            word: "yes".to_owned(),
            first: 2,
            settled: 7,
        };
        assert_eq!(inspection.answer_layers(), Some(expected));
        inspection.layers[9].top.clear();
        assert_eq!(inspection.answer_layers(), None);
    }
}
