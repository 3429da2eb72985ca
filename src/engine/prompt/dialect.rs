//! The dialect of Jinja that chat templates are written in: that of transformers' `apply_chat_template`
//! (`utils/chat_template_utils.py`).

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::Formatter;

/// Steps that a template may take; real ones take a few hundred.
const FUEL: u64 = 1_000_000;

/// Renders a template.
///
/// # Errors
/// The template's error in one line.
pub(super) fn render(template: &str, variables: Value) -> Result<String, String> {
    let template = with_if_for_generation(template);
    environment()
        .and_then(|environment| environment.render_str(&template, variables))
        .map_err(|error| in_words(&error))
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    Ok(environment)
}

/// transformers' own tag `generation` marks answers for training and writes nothing. A condition that always holds is the
/// same to the text, blanks around it included.
fn with_if_for_generation(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((inside, after)) = tag.split_once("%}") else {
            break;
        };
        let inside = match inside.trim_matches(|c: char| c.is_whitespace() || "-+".contains(c)) {
            "generation" => inside.replace("generation", "if true"),
            "endgeneration" => inside.replace("endgeneration", "endif"),
            _ => inside.to_owned(),
        };
        text.extend([before, "{%", &inside, "%}"]);
        rest = after;
    }
    text + rest
}

/// This moment, as `strftime` writes it.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// A value as the filter `tojson` writes it, if it can.
pub(super) fn json(value: &Value) -> Option<String> {
    tojson(value.clone(), Kwargs::from_iter([] as [(String, Value); 0])).ok()
}

/// Python's `json.dumps`: unlike Jinja's own filter nothing is escaped for HTML, as the model is to read what was written.
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let n_indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let [comma, colon] = match separators.as_deref() {
        Some([comma, colon]) => [comma.clone(), colon.clone()],
        _ => [if n_indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
    };
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let is_sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let python = Python {
        comma,
        colon,
        n_indent,
        depth: 0,
        is_empty: true,
        is_ascii: ensure_ascii == Some(true),
    };
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, python);
    let written = if is_sorted == Some(true) {
        serde_json::to_value(&value).and_then(|mut value| {
            value.sort_all_objects();
            value.serialize(&mut serializer)
        })
    } else {
        value.serialize(&mut serializer)
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(json).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// How Python lays JSON out.
struct Python {
    comma: String,
    colon: String,
    n_indent: Option<usize>,
    depth: usize,
    /// Whether the list or object that was begun last has nothing in it so far.
    is_empty: bool,
    is_ascii: bool,
}

impl Python {
    fn begin<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        writer.write_all(bracket)
    }

    fn end<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::take(&mut self.is_empty) {
            self.new_line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn before_item<W: ?Sized + io::Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        self.is_empty = false;
        if !is_first {
            writer.write_all(self.comma.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.n_indent {
            Some(n) => write!(writer, "\n{:width$}", "", width = n * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.before_item(writer, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.before_item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.colon.as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        if !self.is_ascii {
            return writer.write_all(text.as_bytes());
        }
        let mut units = [0; 2];
        for c in text.chars() {
            if c.is_ascii() {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// An error in one line.
fn in_words(error: &Error) -> String {
    let words = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    // Values of minijinja cannot be given operators, and no published template of a vision model was seen to need this one.
    let is_formatting = error
        .detail()
        .is_some_and(|detail| detail.starts_with("tried to use % operator on unsupported types string and"));
    if is_formatting {
        format!("{words}: Python's '...' % x is not known here, write '...' | format(x)")
    } else {
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn rendered(template: &str) -> Result<String, String> {
        let lists = context! { empty => Vec::<i32>::new(), n => vec![1, 2] };
        render(template, context! { x => "é<b>'", lists })
    }

    #[test]
    fn generation_marks_and_writes_nothing() {
        for (template, text) in [
            ("a{% generation %}b{% endgeneration %}c", "abc"),
            ("a \n{%- generation -%}\n b {%- endgeneration +%}\nc", "ab\nc"),
            (
                "{% if true %}{%generation%}{{ '{' }}{%endgeneration%}{% endif %}{% raw %}{% x %}{% endraw %}",
                "{{% x %}",
            ),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(text), "{template}");
        }
        assert!(rendered("{% generation").unwrap_err().contains("syntax error"));
    }

    /// What Python 3.12 gives for `json.dumps` of the same.
    #[test]
    fn json_is_pythons() {
        for (template, text) in [
            ("{{ x | tojson }}", r#""é<b>'""#),
            ("{{ x | tojson(ensure_ascii=true) }}", r#""\u00e9<b>'""#),
            (
                "{{ '\u{1f600}' | tojson(ensure_ascii=true) }}",
                r#""\ud83d\ude00""#,
            ),
            (
                "{{ {'b': 1, 'a': {'d': none, 'c': true}} | tojson }}",
                r#"{"b": 1, "a": {"d": null, "c": true}}"#,
            ),
            (
                "{{ {'b': 1, 'a': {'d': none, 'c': true}} | tojson(sort_keys=true) }}",
                r#"{"a": {"c": true, "d": null}, "b": 1}"#,
            ),
            ("{{ lists | tojson }}", r#"{"empty": [], "n": [1, 2]}"#),
            (
                "{{ lists | tojson(separators=[',', ':']) }}",
                r#"{"empty":[],"n":[1,2]}"#,
            ),
            (
                "{{ lists | tojson(indent=2, sort_keys=true) }}",
                "{\n  \"empty\": [],\n  \"n\": [\n    1,\n    2\n  ]\n}",
            ),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(text), "{template}");
        }
        assert!(
            rendered("{{ x | tojson(indnt=2) }}")
                .unwrap_err()
                .contains("indnt")
        );
    }

    #[test]
    fn what_published_templates_use() {
        for (template, text) in [
            (
                "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
                "3",
            ),
            (
                "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "02",
            ),
            ("{{ '{} of {n}'.format(1, n=2) }}", "1 of 2"),
            ("{{ '%s of %d' | format('one', 2) }}", "one of 2"),
            ("{{ 'a b'.split(' ')[1].upper().strip() }}", "B"),
            ("{{ strftime_now('%%') }}", "%"),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(text), "{template}");
        }
        let error = rendered("{{ '%s of 2' % x }}").unwrap_err();
        assert!(error.contains("'...' | format(x)"), "{error}");
        let error = rendered("{{ [1] % 2 }}").unwrap_err();
        assert!(!error.contains("format"), "{error}");
        let year: u32 = rendered("{{ strftime_now('%Y') }}").unwrap().parse().unwrap();
        assert!((2025..10_000).contains(&year));
        assert!(
            rendered("{{ raise_exception('only with tools') }}")
                .unwrap_err()
                .contains("only with tools")
        );
    }
}
