//! Answers compared as text.

/// Number words and their digits; "none" is no number here, as it also answers other questions than "how many".
const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// What may stand before a short answer.
const LEAD_INS: [&str; 4] = ["the answer is", "answer is", "the answer", "answer"];

/// Words, joined by single blanks, that say the same for another choice of case, punctuation, articles and digits:
///
/// 1. lower case;
/// 2. apostrophes are deleted; commas between digits are deleted, periods between digits and a minus before a digit
///    are kept; every other character that is no letter and no digit becomes a blank;
/// 3. the words `a`, `an` and `the` are deleted, number words from `zero` to `twenty` become digits.
pub fn normalise(text: &str) -> String {
    let lower: Vec<char> = text.to_lowercase().chars().collect();
    let is_digit = |i: Option<usize>| i.and_then(|i| lower.get(i)).is_some_and(char::is_ascii_digit);
    let is_word = |i: Option<usize>| i.and_then(|i| lower.get(i)).is_some_and(|c| c.is_alphanumeric());
    let mut plain = String::with_capacity(text.len());
    for (i, &c) in lower.iter().enumerate() {
        let (before, after) = (i.checked_sub(1), Some(i + 1));
        let between_digits = is_digit(before) && is_digit(after);
        match c {
            _ if c.is_alphanumeric() => plain.push(c),
            '\'' | '’' => {}
            ',' if between_digits => {}
            '.' if between_digits => plain.push(c),
            '-' if is_digit(after) && !is_word(before) => plain.push(c),
            _ => plain.push(' '),
        }
    }
    let words = plain
        .split_whitespace()
        .filter(|word| !["a", "an", "the"].contains(word));
    words.map(with_digits).collect::<Vec<_>>().join(" ")
}

fn with_digits(word: &str) -> String {
    let number = NUMBERS.iter().position(|&number| number == word);
    number.map_or_else(|| word.to_owned(), |number| number.to_string())
}

/// Whether an answer, whole or cut down to its first sentence, is the expected one once both are normalised.
pub fn matches_relaxed(text: &str, expected: &str) -> bool {
    let expected = normalise(expected);
    [text, short_answer(text)]
        .iter()
        .any(|text| normalise(text) == expected)
}

/// The first sentence of the first line that is not empty, without "The answer is" or "Answer:" before it.
///
/// A sentence ends with `.`, `!` or `?` before a blank or at the end of the line.
pub fn short_answer(text: &str) -> &str {
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("");
    let line = without_lead_in(line);
    let is_end = |&(i, c): &(usize, char)| {
        let rest = &line[i + c.len_utf8()..];
        ['.', '!', '?'].contains(&c) && (rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let end = line.char_indices().find(is_end).map_or(line.len(), |(i, _)| i);
    line[..end].trim()
}

fn without_lead_in(line: &str) -> &str {
    for lead_in in LEAD_INS {
        let (Some(head), Some(rest)) = (line.get(..lead_in.len()), line.get(lead_in.len()..)) else {
            continue;
        };
        let is_colon = rest.starts_with(':');
        let is_sentence = lead_in.ends_with("is") && rest.starts_with(char::is_whitespace);
        if head.eq_ignore_ascii_case(lead_in) && (is_colon || is_sentence) {
            return rest.trim_start_matches(':').trim_start();
        }
    }
    line
}

/// Lower case, without periods at the end: what LLaVA does to an answer before GQA's evaluation compares it.
pub fn without_periods(text: &str) -> String {
    text.trim().trim_end_matches('.').to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_form_of_hand_picked_answers() {
        for (text, normal) in [
            ("The Red   Square!", "red square"),
            ("Two dogs, and a cat.", "2 dogs and cat"),
            ("1,234.50 m", "1234.50 m"),
            ("It's a man's hat", "its mans hat"),
            ("-5 degrees", "-5 degrees"),
            ("T-shirt (blue/green)", "t shirt blue green"),
            ("Theodore", "theodore"),
            ("ÄRGER.", "ärger"),
            ("a", ""),
            ("twenty one", "20 1"),
        ] {
            assert_eq!(normalise(text), normal, "{text:?}");
        }
    }

    #[test]
    fn a_short_answer_is_the_first_sentence() {
        for (text, short) in [
            ("Red. The ball is red.", "Red"),
            ("The answer is: four", "four"),
            ("The answer is four.", "four"),
            ("Answer: 3.5 metres. Roughly", "3.5 metres"),
            ("Answering machine", "Answering machine"),
            ("\n\n  yes!\nno", "yes"),
            ("Ünit", "Ünit"),
            ("", ""),
        ] {
            assert_eq!(short_answer(text), short, "{text:?}");
        }
    }

    #[test]
    fn relaxed_looks_at_all_of_it_and_at_the_first_sentence() {
        assert!(matches_relaxed("The answer is two. I count them.", "2"));
        assert!(matches_relaxed("St. Paul", "st paul"));
        assert!(!matches_relaxed("red and blue", "red"));
        assert!(!matches_relaxed("", "red"));
    }
}
