//! The option that an answer to a multiple-choice question names.

use super::text::{normalise, short_answer};

/// The letter of the option that `text` names, by the first of these that finds one:
///
/// 1. the text is a letter, in either case, with or without brackets and a period, colon or bracket after it;
/// 2. it begins with a capital letter in brackets, or followed by a period, colon or bracket and then a blank;
/// 3. it says `answer is X` or `answer: X`, with a capital letter, in brackets or not, and never with two different
///    ones;
/// 4. the text, or its first sentence, is the text of exactly one option, both normalised.
///
/// Only letters of `options` count; any from A to Z where the options are not known.
pub fn read(text: &str, options: &[String]) -> Option<char> {
    let n_options = if options.is_empty() {
        26
    } else {
        options.len().min(26)
    };
    let is_option =
        |letter: &char| (*letter as usize) < 'A' as usize + n_options && letter.is_ascii_uppercase();
    let text = text.trim();
    letter_alone(text)
        .filter(is_option)
        .or_else(|| letter_before_text(text).filter(is_option))
        .or_else(|| letter_in_sentence(text).filter(is_option))
        .or_else(|| option_text(text, options))
}

fn letter_alone(text: &str) -> Option<char> {
    let inner = text.trim_start_matches('(').trim_end_matches(['.', ':', ')']);
    let mut chars = inner.chars();
    let letter = chars.next()?.to_ascii_uppercase();
    chars.next().is_none().then_some(letter)
}

fn letter_before_text(text: &str) -> Option<char> {
    let (rest, in_brackets) = match text.strip_prefix('(') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let mut chars = rest.chars();
    let letter = chars.next()?;
    let mark = chars.next()?;
    let ends = chars.next().is_none_or(char::is_whitespace);
    let is_mark = if in_brackets {
        mark == ')'
    } else {
        ['.', ':', ')'].contains(&mark) && ends
    };
    is_mark.then_some(letter)
}

fn letter_in_sentence(text: &str) -> Option<char> {
    let mut found = None;
    for (i, _) in text.match_indices("nswer") {
        let Some(letter) = letter_after_answer(&text[i + "nswer".len()..]) else {
            continue;
        };
        if found.is_some_and(|found| found != letter) {
            return None;
        }
        found = Some(letter);
    }
    found
}

/// `: X`, ` is X`, ` is: (X)`.
fn letter_after_answer(rest: &str) -> Option<char> {
    let rest = match rest.strip_prefix(" is") {
        Some(rest) => rest.strip_prefix(':').unwrap_or(rest),
        None => rest.strip_prefix(':')?,
    };
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let mut chars = rest.strip_prefix('(').unwrap_or(rest).chars();
    let letter = chars.next()?;
    let ends = chars.next().is_none_or(|c| !c.is_alphanumeric() && c != '\'');
    (letter.is_ascii_uppercase() && ends).then_some(letter)
}

fn option_text(text: &str, options: &[String]) -> Option<char> {
    for text in [text, short_answer(text)] {
        let text = normalise(text);
        let mut same = ('A'..='Z')
            .zip(options)
            .filter(|(_, option)| !text.is_empty() && normalise(option) == text);
        if let (Some((letter, _)), None) = (same.next(), same.next()) {
            return Some(letter);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Vec<String> {
        ["chiasmus", "an apostrophe", "New York"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn every_way_to_name_an_option() {
        for (text, letter) in [
            ("B", Some('B')),
            (" b\n", Some('B')),
            ("(C)", Some('C')),
            ("A.", Some('A')),
            ("A. chiasmus", Some('A')),
            ("(B) apostrophe", Some('B')),
            ("C: New York", Some('C')),
            ("The answer is B.", Some('B')),
            ("Answer: (C)", Some('C')),
            ("I think the answer is: A because", Some('A')),
            ("New York.", Some('C')),
            ("Apostrophe", Some('B')),
            ("The answer is new york. It is big.", Some('C')),
        ] {
            assert_eq!(read(text, &options()), letter, "{text:?}");
        }
    }

    #[test]
    fn what_names_no_option_or_two() {
        for text in [
            "",
            "D",
            "A cat",
            "A.m. hours",
            "The answer is A. No, the answer is B.",
            "The answer is Apt",
            "none",
        ] {
            assert_eq!(read(text, &options()), None, "{text:?}");
        }
        let twice = ["yes".to_owned(), "Yes.".to_owned()];
        assert_eq!(read("yes", &twice), None);
    }

    #[test]
    fn letters_without_options() {
        assert_eq!(read("E", &[]), Some('E'));
        assert_eq!(read("chiasmus", &[]), None);
    }
}
