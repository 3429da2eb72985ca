//! A vocabulary of SentencePiece's kind that any text can be written in.

use crate::gguf::GgufWriter;

/// Control tokens, bytes, the word mark, and printable ASCII with and without it.
pub const MIN_VOCAB: usize = 3 + 256 + 1 + 2 * 94;

/// Control tokens come first: `<unk>`, `<s>`, `</s>`.
pub(super) const N_CONTROL: u64 = 3;

/// SentencePiece's mark of a word's begin.
const WORD: char = '\u{2581}';

/// `llama.h: enum llama_token_type`
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// Sets the metadata of a tokenizer with `n_vocab` tokens, [`MIN_VOCAB`] or more.
///
/// A character is a token, a blank belongs to the character behind it. The remaining tokens are words that no text
/// contains, made so that no pair of tokens merges into one.
pub(super) fn set(writer: &mut GgufWriter, n_vocab: usize) {
    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let special = special.map(|(text, kind)| (text.to_owned(), kind));
    let bytes = (0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), BYTE));
    let ascii = || ('!'..='~').map(String::from);
    let characters = [String::from(WORD)]
        .into_iter()
        .chain(ascii())
        .chain(ascii().map(|character| format!("{WORD}{character}")));
    let words = (0..).map(|i| format!("{WORD}word{i:06}"));
    let normal = characters.chain(words).map(|text| (text, NORMAL));
    let (tokens, kinds): (Vec<String>, Vec<i32>) = special
        .into_iter()
        .chain(bytes)
        .chain(normal)
        .take(n_vocab)
        .unzip();
    // the earlier a token, the sooner it is merged
    let scores: Vec<f32> = (0..tokens.len()).map(|i| -(i as f32)).collect();
    writer
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.pre", "default")
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.scores", scores)
        .set("tokenizer.ggml.token_type", kinds)
        .set("tokenizer.ggml.unknown_token_id", 0u32)
        .set("tokenizer.ggml.bos_token_id", 1u32)
        .set("tokenizer.ggml.eos_token_id", 2u32)
        .set("tokenizer.ggml.add_bos_token", true)
        .set("tokenizer.ggml.add_eos_token", false)
        .set("tokenizer.ggml.add_space_prefix", true);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::gguf::{Array, Gguf, Value};

    fn tokens(n_vocab: usize) -> Vec<String> {
        let mut writer = GgufWriter::new();
        set(&mut writer, n_vocab);
        let mut bytes = Vec::new();
        writer.write(&mut bytes, |_| Vec::new()).unwrap();
        let gguf = Gguf::parse("v.gguf", bytes.as_slice(), bytes.len() as u64).unwrap();
        let lens = ["scores", "token_type"].map(|key| {
            let key = format!("tokenizer.ggml.{key}");
            gguf.opt_array(&key).unwrap().unwrap().len()
        });
        assert_eq!(lens, [n_vocab; 2]);
        assert_eq!(crate::engine::model::vocabulary::defect(&gguf).unwrap(), None);
        match gguf.get("tokenizer.ggml.tokens") {
            Some(Value::Array(Array::String(tokens))) => tokens.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn as_many_tokens_as_asked_for_all_different() {
        for n_vocab in [MIN_VOCAB, 512, 152_064] {
            let tokens = tokens(n_vocab);
            assert_eq!(tokens.len(), n_vocab);
            assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), n_vocab);
        }
    }

    #[test]
    fn the_smallest_one_has_every_character() {
        let tokens = tokens(MIN_VOCAB);
        assert_eq!(tokens[..4], ["<unk>", "<s>", "</s>", "<0x00>"]);
        assert_eq!(tokens[258], "<0xFF>");
        for text in ["\u{2581}", "a", "\u{2581}a", "~", "\u{2581}!"] {
            assert!(tokens.iter().any(|token| token == text), "{text}");
        }
    }

    /// Pairs merge only into tokens, and no word's first two pieces are one.
    #[test]
    fn words_are_out_of_reach() {
        let tokens: HashSet<String> = tokens(1000).into_iter().collect();
        let is_reachable = |word: &String| {
            let mut ends = word.char_indices().map(|(at, _)| at).skip(1);
            ends.any(|at| word[..at].chars().count() > 2 && tokens.contains(&word[..at]))
        };
        let words: Vec<_> = tokens.iter().filter(|token| token.contains("word0")).collect();
        assert_eq!(words.len(), 1000 - MIN_VOCAB);
        assert!(!words.into_iter().any(is_reachable));
    }
}
