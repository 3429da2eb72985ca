//! What a vocabulary must be for llama.cpp not to stop the process over it.

use std::collections::HashSet;

use crate::gguf::{Array, Gguf, GgufError};

/// Says what is wrong with a model's vocabulary, if anything.
///
/// llama.cpp asserts that no two tokens have the same text, and throws where the C interface cannot catch when a text
/// holds a byte that a SentencePiece vocabulary has no token for (llama-vocab.cpp@0.1.161: `impl::load`,
/// `byte_to_token`).
///
/// # Errors
/// For metadata of the wrong type.
pub(crate) fn defect(gguf: &Gguf) -> Result<Option<String>, GgufError> {
    let Some(Array::String(tokens)) = gguf.opt_array("tokenizer.ggml.tokens")? else {
        return Ok(None);
    };
    let mut seen = HashSet::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        // Upstream reads C strings, renames empty ones, and texts that are no UTF-8 look alike here without being so.
        let token = token.split('\0').next().unwrap_or_default();
        let is_comparable = !token.is_empty() && !token.contains(char::REPLACEMENT_CHARACTER);
        if is_comparable && !seen.insert(token) {
            return Ok(Some(format!("token {id} is another {token:?}")));
        }
    }
    if gguf.opt_str("tokenizer.ggml.model")? != Some("llama") {
        return Ok(None);
    }
    let is_missing = |byte: &u8| {
        let itself = char::from(*byte);
        let is_itself = itself.is_ascii() && seen.contains(itself.encode_utf8(&mut [0; 4]) as &str);
        !is_itself && !seen.contains(format!("<0x{byte:02X}>").as_str())
    };
    let missing = (0..=u8::MAX).find(is_missing);
    Ok(missing.map(|byte| format!("there is no token for the byte 0x{byte:02X}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufWriter;

    fn defect_of(model: &str, tokens: &[&str]) -> Option<String> {
        let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
        let tokens: Vec<String> = bytes
            .chain(tokens.iter().map(|token| token.to_string()))
            .collect();
        defect_of_all(model, tokens)
    }

    fn defect_of_all(model: &str, tokens: Vec<String>) -> Option<String> {
        let mut writer = GgufWriter::new();
        writer
            .set("tokenizer.ggml.model", model)
            .set("tokenizer.ggml.tokens", tokens);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("vocabulary.gguf");
        writer.write_file(&path, |_| Vec::new()).expect("writes");
        defect(&Gguf::open(&path).expect("opens")).expect("reads")
    }

    #[test]
    fn tokens_must_differ() {
        assert_eq!(defect_of("llama", &["a", "b", "", "", "\0x", "\0y"]), None);
        assert_eq!(
            defect_of("llama", &["a", "a\0b"]).as_deref(),
            Some("token 257 is another \"a\"")
        );
        assert_eq!(
            defect_of("llama", &["a", "b", "a"]).as_deref(),
            Some("token 258 is another \"a\"")
        );
    }

    #[test]
    fn sentencepiece_needs_every_byte() {
        let all_but = |gone: &str| -> Vec<String> {
            (0..=u8::MAX)
                .map(|byte| format!("<0x{byte:02X}>"))
                .filter(|token| token != gone)
                .collect()
        };
        assert_eq!(
            defect_of_all("llama", all_but("<0x0A>")).as_deref(),
            Some("there is no token for the byte 0x0A")
        );
        assert_eq!(defect_of_all("gpt2", all_but("<0x0A>")), None);
        let mut with_newline = all_but("<0x0A>");
        with_newline.push("\n".to_owned());
        assert_eq!(defect_of_all("llama", with_newline), None);
    }
}
