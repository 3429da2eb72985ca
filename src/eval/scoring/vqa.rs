//! The soft accuracy of VQA (Antol et al., 2015, arXiv 1505.00468), with the normalisation of the EvalAI server as it
//! is used for TextVQA.

/// People's answers that a question must have for full marks to be possible at all.
pub const FEWEST_ANSWERS: usize = 4;

/// So many people who gave the same answer make it fully right.
const FULL_MARKS: f64 = 3.0;

const DIGITS: [&str; 11] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
];

/// Symbols that are deleted or replaced by a blank.
const SYMBOLS: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!',
];

/// Stems of contractions whose apostrophe may have been left out, by what follows the apostrophe: `dont` is `don't`.
const CONTRACTIONS: [(&str, &str, &[&str]); 6] = [
    (
        "nt",
        "n't",
        &[
            "ai", "are", "ca", "could", "did", "does", "do", "had", "has", "have", "is", "might", "must",
            "need", "ought", "sha", "should", "was", "were", "wo", "would",
        ],
    ),
    (
        "ve",
        "'ve",
        &[
            "could", "might", "must", "not", "should", "they", "we", "what", "who", "would", "you",
        ],
    ),
    ("re", "'re", &["there", "they", "what", "why", "you"]),
    (
        "ll",
        "'ll",
        &[
            "how",
            "it",
            "somebody",
            "someone",
            "something",
            "they",
            "what",
            "who",
            "why",
            "you",
        ],
    ),
    (
        "s",
        "'s",
        &[
            "he", "how", "somebody", "someone", "that", "there", "what", "when", "where", "who", "why",
        ],
    ),
    (
        "d",
        "'d",
        &[
            "he",
            "how",
            "it",
            "someone",
            "something",
            "there",
            "they",
            "where",
            "who",
            "you",
        ],
    ),
];

/// The mean, over leaving out each of the `n` people in turn, of `min(1, m / 3)`, where `m` of the others gave this
/// answer; both sides normalised.
pub fn soft_accuracy(text: &str, answers: &[String]) -> f64 {
    let text = normalise(text);
    let n_same = answers.iter().filter(|answer| normalise(answer) == text).count();
    let n_other = answers.len() - n_same;
    let marks = |n_agreeing: usize| (n_agreeing as f64 / FULL_MARKS).min(1.0);
    if n_same == 0 {
        return 0.0;
    }
    (n_same as f64 * marks(n_same - 1) + n_other as f64 * marks(n_same)) / answers.len() as f64
}

/// The form in which answers are compared, step by step as the server does it.
pub fn normalise(text: &str) -> String {
    let text = text.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    let text = without_symbols(text.trim().replace(['\n', '\t'], " ").trim());
    let words = without_periods(&text);
    let words = words
        .split_whitespace()
        .map(with_digits)
        .filter(|word| !["a", "an", "the"].contains(&word.as_str()));
    words.map(with_apostrophe).collect::<Vec<_>>().join(" ")
}

/// A symbol that has a blank beside it anywhere in the text is deleted everywhere, another one becomes a blank.
fn without_symbols(text: &str) -> String {
    let mut plain = text.to_owned();
    for symbol in SYMBOLS {
        let at_word_end = text.contains(&format!("{symbol} ")) || text.contains(&format!(" {symbol}"));
        plain = plain.replace(symbol, if at_word_end { "" } else { " " });
    }
    plain
}

/// Periods go unless a digit follows.
fn without_periods(text: &str) -> String {
    let mut chars = text.chars().peekable();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        if c != '.' || chars.peek().is_some_and(char::is_ascii_digit) {
            plain.push(c);
        }
    }
    plain
}

fn with_digits(word: &str) -> String {
    match DIGITS.iter().position(|&digit| digit == word) {
        Some(digit) => digit.to_string(),
        None if word == "none" => "0".to_owned(),
        None => word.to_owned(),
    }
}

fn with_apostrophe(word: String) -> String {
    let contracted = CONTRACTIONS.iter().find_map(|(bare, written, stems)| {
        let stem = word.strip_suffix(bare)?;
        stems.contains(&stem).then(|| format!("{stem}{written}"))
    });
    contracted.unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(counts: &[(&str, usize)]) -> Vec<String> {
        let repeated = counts
            .iter()
            .flat_map(|&(answer, n)| std::iter::repeat_n(answer.to_owned(), n));
        repeated.collect()
    }

    /// Leave-one-out spelled out, as the definition says it.
    fn literal(text: &str, answers: &[String]) -> f64 {
        let marks = (0..answers.len()).map(|left_out| {
            let others = answers.iter().enumerate().filter(|(i, _)| *i != left_out);
            let m = others
                .filter(|(_, answer)| normalise(answer) == normalise(text))
                .count();
            (m as f64 / 3.0).min(1.0)
        });
        // an answer that nobody gave is worth nothing
        let given = answers.iter().any(|answer| normalise(answer) == normalise(text));
        f64::from(u8::from(given)) * marks.sum::<f64>() / answers.len() as f64
    }

    /// Of ten people: one 0 + 9 * 1/3, two 2 * 1/3 + 8 * 2/3, three 3 * 2/3 + 7 * 1, all tenths.
    #[test]
    fn three_tenths_for_each_of_up_to_three_people() {
        for (n, score) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            let answers = answers(&[("red", n), ("blue", 10 - n)]);
            assert!((soft_accuracy("Red", &answers) - score).abs() < 1e-12, "{n}");
            assert!((literal("red", &answers) - score).abs() < 1e-12, "{n}");
        }
    }

    #[test]
    fn any_number_of_people() {
        for n in 4..9 {
            for same in 0..=n {
                let answers = answers(&[("a cat", same), ("dog", n - same)]);
                assert!((soft_accuracy("cat", &answers) - literal("cat", &answers)).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn normal_form_with_the_servers_quirks() {
        for (text, normal) in [
            ("The Coca-Cola Company", "coca cola company"),
            ("coca -cola", "coca cola"),
            ("a-b - c", "ab c"),
            ("St. Paul's", "st paul 's"),
            ("3.5 kg.", "3.5 kg"),
            (".5", ".5"),
            ("1,000", "1000"),
            ("None", "0"),
            ("ten\nmen", "10 men"),
            ("dont", "don't"),
            ("its", "its"),
            ("yes!", "yes"),
        ] {
            assert_eq!(normalise(text), normal, "{text:?}");
        }
    }
}
