//! A small SentencePiece vocabulary.

use visipruner::gguf::GgufWriter;

/// The tokens `<unk>`, `<s>` and `</s>`.
pub const UNK: usize = 0;
pub const BOS: usize = 1;
pub const EOS: usize = 2;

/// LLaVA-1.5's template.
const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    {% if message['role'] == 'system' %}{{ message['content'] + ' ' }}\
    {% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}\
    {% else %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}\
    {% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";

/// A token of a SentencePiece vocabulary.
pub struct Piece {
    text: String,
    score: f32,
    /// `llama.h: enum llama_token_type`
    kind: i32,
}

/// Puts vocabulary and template into a file.
pub fn plan(writer: &mut GgufWriter) {
    let pieces = vocabulary();
    let texts: Vec<String> = pieces.iter().map(|piece| piece.text.clone()).collect();
    let scores: Vec<f32> = pieces.iter().map(|piece| piece.score).collect();
    let kinds: Vec<i32> = pieces.iter().map(|piece| piece.kind).collect();
    writer
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.pre", "default")
        .set("tokenizer.ggml.tokens", texts)
        .set("tokenizer.ggml.scores", scores)
        .set("tokenizer.ggml.token_type", kinds)
        .set("tokenizer.ggml.unknown_token_id", UNK as u32)
        .set("tokenizer.ggml.bos_token_id", BOS as u32)
        .set("tokenizer.ggml.eos_token_id", EOS as u32)
        .set("tokenizer.ggml.add_bos_token", true)
        .set("tokenizer.ggml.add_eos_token", false)
        .set("tokenizer.ggml.add_space_prefix", true)
        .set("tokenizer.chat_template", CHAT_TEMPLATE);
}

/// Control tokens, all bytes, a few words with every prefix of theirs (SentencePiece merges pairs), printable
/// ASCII.
pub fn vocabulary() -> Vec<Piece> {
    const NORMAL: i32 = 1;
    const UNKNOWN: i32 = 2;
    const CONTROL: i32 = 3;
    const BYTE: i32 = 6;
    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let mut pieces: Vec<Piece> = special
        .map(|(text, kind)| Piece {
            text: text.to_owned(),
            score: 0.0,
            kind,
        })
        .into();
    pieces.extend((0..=255u8).map(|byte| Piece {
        text: format!("<0x{byte:02X}>"),
        score: 0.0,
        kind: BYTE,
    }));
    for (rank, text) in merged_pieces().into_iter().enumerate() {
        pieces.push(Piece {
            text,
            score: -(rank as f32),
            kind: NORMAL,
        });
    }
    pieces
}

fn merged_pieces() -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for word in [
        "\u{2581}USER:",
        "\u{2581}ASSISTANT:",
        "\u{2581}the",
        "\u{2581}what",
        "\u{2581}is",
        "\u{2581}in",
    ] {
        let ends = word.char_indices().map(|(i, c)| i + c.len_utf8()).skip(1);
        for prefix in ends.map(|end| &word[..end]) {
            if !pieces.iter().any(|piece| piece == prefix) {
                pieces.push(prefix.to_owned());
            }
        }
    }
    pieces.push("\u{2581}".to_owned());
    pieces.extend((33..127u8).map(|byte| char::from(byte).to_string()));
    pieces
}
