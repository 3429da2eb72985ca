//! llama.cpp's grammars (`grammars/README.md` of its source) in the words of Lark, which the constraints are computed from.

use std::collections::HashMap;
use std::fmt::Write as _;

/// Groups within groups, at most: the text may come from anywhere.
const MAX_DEPTH: usize = 64;

/// A grammar as Lark has it. Its rules are numbered: Lark takes other names than GBNF.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let mut parser = Parser {
        rest: text,
        n_line: 1,
        numbers: HashMap::new(),
        defined: Vec::new(),
    };
    let mut lark = String::new();
    parser.skip_blank(true);
    while !parser.rest.is_empty() {
        let rule = parser
            .rule()
            .map_err(|reason| format!("line {} of the grammar: {reason}", parser.n_line))?;
        lark.push_str(&rule);
        parser.skip_blank(true);
    }
    let is_defined = |number: usize| parser.defined.contains(&number);
    if let Some((name, _)) = parser.numbers.iter().find(|&(_, &number)| !is_defined(number)) {
        return Err(format!("the grammar has no rule '{name}'"));
    }
    match parser.numbers.get("root") {
        Some(root) => Ok(format!("start: rule_{root}\n{lark}")),
        None => Err("the grammar has no rule 'root'".to_owned()),
    }
}

struct Parser<'a> {
    rest: &'a str,
    n_line: usize,
    /// By name, in the order in which they are met.
    numbers: HashMap<&'a str, usize>,
    defined: Vec<usize>,
}

impl<'a> Parser<'a> {
    fn rule(&mut self) -> Result<String, String> {
        let name = self.name().ok_or("a rule must begin with its name")?;
        let number = self.number(name);
        if self.defined.contains(&number) {
            return Err(format!("there are two rules '{name}'"));
        }
        self.defined.push(number);
        self.skip_blank(false);
        self.rest = self
            .rest
            .strip_prefix("::=")
            .ok_or("'::=' must follow the name of a rule")?;
        self.skip_blank(true);
        let body = self.alternatives(false, 0)?;
        match self.rest.chars().next() {
            None | Some('\n' | '\r') => Ok(format!("rule_{number}: {body}\n")),
            Some(other) => Err(format!("'{other}' is not understood")),
        }
    }

    /// What stands between bars; in a group it may go over several lines.
    fn alternatives(&mut self, in_group: bool, depth: usize) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(format!(
                "there are more than {MAX_DEPTH} groups within each other"
            ));
        }
        let mut out = self.sequence(in_group, depth)?;
        loop {
            if let Some(rest) = self.rest.strip_prefix('|') {
                self.rest = rest;
            } else if !in_group && self.next_line_goes_on() {
                continue;
            } else {
                return Ok(out);
            }
            self.skip_blank(true);
            let next = self.sequence(in_group, depth)?;
            let _ = write!(out, " | {next}"); // a string takes whatever is written
        }
    }

    /// Goes to a line that begins with a bar, if the next one does.
    fn next_line_goes_on(&mut self) -> bool {
        let before = (self.rest, self.n_line);
        self.skip_blank(true);
        if before.0 != self.rest && self.rest.starts_with('|') {
            return true;
        }
        (self.rest, self.n_line) = before;
        false
    }

    fn sequence(&mut self, in_group: bool, depth: usize) -> Result<String, String> {
        let mut items: Vec<String> = Vec::new();
        while let Some(first) = self.rest.chars().next() {
            let item = match first {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.rest = &self.rest[1..];
                    "/(?s:.)/".to_owned()
                }
                '(' => {
                    self.rest = &self.rest[1..];
                    self.skip_blank(true);
                    let inside = self.alternatives(true, depth + 1)?;
                    self.rest = self.rest.strip_prefix(')').ok_or("a ')' is missing")?;
                    format!("({inside})")
                }
                _ => match self.name() {
                    Some(name) => format!("rule_{}", self.number(name)),
                    None => break,
                },
            };
            let repeated = self.repetition()?;
            items.push(item + &repeated);
            self.skip_blank(in_group);
        }
        Ok(if items.is_empty() {
            "\"\"".to_owned()
        } else {
            items.join(" ")
        })
    }

    fn repetition(&mut self) -> Result<String, String> {
        let Some(first) = self.rest.chars().next() else {
            return Ok(String::new());
        };
        if "*+?".contains(first) {
            self.rest = &self.rest[1..];
            return Ok(first.to_string());
        }
        let Some(rest) = self.rest.strip_prefix('{') else {
            return Ok(String::new());
        };
        let (inside, rest) = rest.split_once('}').ok_or("a '}' is missing")?;
        let is_number =
            |text: &str| !text.is_empty() && text.len() < 6 && text.bytes().all(|byte| byte.is_ascii_digit());
        let bounds: Vec<&str> = inside.split(',').map(str::trim).collect();
        self.rest = rest;
        match bounds[..] {
            [n] if is_number(n) => Ok(format!("{{{n}}}")),
            [min, ""] if is_number(min) => Ok(format!("{{{min},}}")),
            [min, max] if is_number(min) && is_number(max) => Ok(format!("{{{min},{max}}}")),
            _ => Err(format!("'{{{inside}}}' is no repetition")),
        }
    }

    fn literal(&mut self) -> Result<String, String> {
        self.rest = &self.rest[1..];
        let mut text = String::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix('"') {
                self.rest = rest;
                return Ok(serde_json::Value::String(text).to_string());
            }
            text.push(self.character("a '\"' is missing")?);
        }
    }

    fn class(&mut self) -> Result<String, String> {
        self.rest = &self.rest[1..];
        let mut class = String::from("/[");
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.rest = rest;
            class.push('^');
        }
        let missing = "a ']' is missing";
        loop {
            if let Some(rest) = self.rest.strip_prefix(']') {
                self.rest = rest;
                return Ok(class + "]/");
            }
            let first = self.character(missing)?;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = if is_range {
                self.rest = &self.rest[1..];
                self.character(missing)?
            } else {
                first
            };
            if last < first {
                return Err(format!("the range from '{first}' to '{last}' is empty"));
            }
            let (first, last) = (u32::from(first), u32::from(last));
            let _ = write!(class, "\\x{{{first:X}}}-\\x{{{last:X}}}"); // a string takes whatever is written
        }
    }

    /// A character of a literal or a class, escaped or not.
    fn character(&mut self, missing: &str) -> Result<char, String> {
        let mut chars = self.rest.chars();
        let character = chars
            .next()
            .filter(|&character| character != '\n')
            .ok_or(missing)?;
        self.rest = chars.as_str();
        if character != '\\' {
            return Ok(character);
        }
        let escape = chars.next().ok_or(missing)?;
        self.rest = chars.as_str();
        match escape {
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'x' => self.hexadecimal(2),
            'u' => self.hexadecimal(4),
            'U' => self.hexadecimal(8),
            '\\' | '"' | '[' | ']' | '-' | '^' => Ok(escape),
            other => Err(format!("'\\{other}' is no escape")),
        }
    }

    fn hexadecimal(&mut self, n_digits: usize) -> Result<char, String> {
        let digits = self
            .rest
            .get(..n_digits)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let digits = digits.ok_or(format!("{n_digits} hexadecimal digits are expected"))?;
        self.rest = &self.rest[n_digits..];
        let number = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        number.ok_or(format!("{digits} is no character"))
    }

    fn name(&mut self) -> Option<&'a str> {
        let is_part =
            |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '_';
        let length = self
            .rest
            .find(|character| !is_part(character))
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    fn number(&mut self, name: &'a str) -> usize {
        let next = self.numbers.len();
        *self.numbers.entry(name).or_insert(next)
    }

    /// Skips blanks and comments, line breaks too if `over_lines`.
    fn skip_blank(&mut self, over_lines: bool) {
        loop {
            let rest = self.rest.trim_start_matches([' ', '\t']);
            let rest = match rest.strip_prefix('#') {
                Some(comment) => comment.trim_start_matches(|character| character != '\n'),
                None => rest,
            };
            let after = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'));
            match after.filter(|_| over_lines) {
                Some(after) => {
                    self.n_line += 1;
                    self.rest = after;
                }
                None => {
                    self.rest = rest;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_groups_classes_and_repetitions() {
        let gbnf = "# moves\nroot ::= (\"1. \" move\n | other-One)* [^a-c\\]-]{2,3}\n\nmove ::= \"é\\n\\x41\" .? |\n  \"\"\n\
                    other-One ::= move+\n  | move{2,} # twice\n";
        let lark = "start: rule_0\n\
                    rule_0: (\"1. \" rule_1 | rule_2)* /[^\\x{61}-\\x{63}\\x{5D}-\\x{5D}\\x{2D}-\\x{2D}]/{2,3}\n\
                    rule_1: \"é\\nA\" /(?s:.)/? | \"\"\n\
                    rule_2: rule_1+ | rule_1{2,}\n";
        assert_eq!(to_lark(gbnf).as_deref(), Ok(lark));
    }

    #[test]
    fn what_is_no_grammar_is_said_with_its_line() {
        for (gbnf, reason) in [
            ("", "no rule 'root'"),
            ("a ::= \"x\"", "no rule 'root'"),
            ("root ::= a", "no rule 'a'"),
            ("root = a", "line 1 of the grammar: '::='"),
            (
                "root ::= \"x\"\n\nroot ::= \"y\"",
                "line 3 of the grammar: there are two",
            ),
            ("root ::= (\"x\"", "')' is missing"),
            ("root ::= \"x", "'\"' is missing"),
            ("root ::= [z-a]", "is empty"),
            ("root ::= [a", "']' is missing"),
            ("root ::= \"x\"{x}", "no repetition"),
            ("root ::= \"x\"{1", "'}' is missing"),
            ("root ::= \"\\q\"", "no escape"),
            ("root ::= \"\\uD800\"", "no character"),
            ("root ::= \"\\x4\"", "digits"),
            ("root ::= <[5]>", "'<' is not understood"),
            (": x", "must begin with its name"),
        ] {
            let error = to_lark(gbnf).expect_err(gbnf);
            assert!(error.contains(reason), "{gbnf:?}: {error}");
        }
        let deep = format!("root ::= {}\"x\"{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(
            to_lark(&deep)
                .expect_err("too deep")
                .contains("within each other")
        );
    }
}
