//! Text that arrives in pieces: tokens are bytes, and neither characters nor stop strings respect their borders.

/// Puts bytes together to characters. The bytes of a character that is not complete are held back; bytes that can
/// never become one are replaced by U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Utf8Stream {
    /// Fewer than four bytes: the beginning of a character.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// The characters that are complete with these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = after;
                    let Some(n_invalid) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[n_invalid..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left when no more bytes come.
    pub(crate) fn finish(&mut self) -> String {
        if std::mem::take(&mut self.pending).is_empty() {
            String::new()
        } else {
            char::REPLACEMENT_CHARACTER.into()
        }
    }
}

/// Looks for strings that end generation. Text that may be the beginning of one is held back.
#[derive(Debug, Default)]
pub(crate) struct StopStrings {
    /// None of them empty.
    stops: Vec<String>,
    pending: String,
}

impl StopStrings {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            pending: String::new(),
        }
    }

    /// The text that may be shown after this piece, and whether a stop string was found. What follows the stop string,
    /// and the string itself, are never shown.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        self.pending.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| self.pending.find(stop)).min();
        if let Some(at) = found {
            self.pending.truncate(at);
            return (std::mem::take(&mut self.pending), true);
        }
        let held = self
            .stops
            .iter()
            .map(|stop| longest_beginning_at_end(&self.pending, stop))
            .max()
            .unwrap_or(0);
        let rest = self.pending.split_off(self.pending.len() - held);
        (std::mem::replace(&mut self.pending, rest), false)
    }

    /// What was held back, when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.pending)
    }
}

/// Bytes of the longest beginning of `stop`, not all of it, with which `text` ends.
fn longest_beginning_at_end(text: &str, stop: &str) -> usize {
    let mut lengths = stop.char_indices().map(|(at, _)| at).rev();
    lengths
        .find(|&length| text.ends_with(&stop[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_characters_are_held_back() {
        let mut stream = Utf8Stream::default();
        let bytes = "aé🦀".as_bytes();
        let pieces: Vec<_> = bytes.iter().map(|byte| stream.push(&[*byte])).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "", "🦀"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn bytes_that_are_no_characters_are_replaced() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"a\xffb\xc3"), "a\u{fffd}b");
        assert_eq!(stream.push(b"c"), "\u{fffd}c");
        stream.push(b"\xf0\x9f");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn streaming_equals_decoding_at_once() {
        let bytes = b"x\xe2\x82\xac\xf0\x28\x8c\xbc\xe2\x82 y\xc0";
        let at_once = String::from_utf8_lossy(bytes);
        for size in 1..bytes.len() {
            let mut stream = Utf8Stream::default();
            let mut text: String = bytes.chunks(size).map(|chunk| stream.push(chunk)).collect();
            text.push_str(&stream.finish());
            assert_eq!(text, at_once, "in pieces of {size}");
        }
    }

    #[test]
    fn stop_strings_are_found_across_pieces() {
        let mut stops = StopStrings::new(&["</s>".into(), "USER:".into(), String::new()]);
        assert_eq!(stops.push("a blue U"), ("a blue ".into(), false));
        assert_eq!(stops.push("SB stick <"), ("USB stick ".into(), false));
        assert_eq!(stops.push("/s"), (String::new(), false));
        assert_eq!(stops.push("> more"), (String::new(), true));
    }

    #[test]
    fn held_text_comes_when_nothing_follows() {
        let mut stops = StopStrings::new(&["END".into()]);
        assert_eq!(stops.push("the EN"), ("the ".into(), false));
        assert_eq!(stops.finish(), "EN");
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn the_first_stop_string_wins() {
        let mut stops = StopStrings::new(&["late".into(), "soon".into()]);
        assert_eq!(stops.push("as soon as late"), ("as ".into(), true));
    }

    #[test]
    fn stop_strings_of_several_bytes_per_character() {
        let mut stops = StopStrings::new(&["é🦀".into()]);
        assert_eq!(stops.push("caf"), ("caf".into(), false));
        assert_eq!(stops.push("é"), (String::new(), false));
        assert_eq!(stops.push("é"), ("é".into(), false));
        assert_eq!(stops.push("🦀"), (String::new(), true));
    }
}
