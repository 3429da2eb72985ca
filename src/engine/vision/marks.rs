//! The tokens that llama.cpp puts around pictures, by type of projector (`init_vision` in tools/mtmd/mtmd.cpp@0.1.161), and
//! whether a vocabulary has them: that of another model lacks them.

use crate::ffi;

/// Tokens around the pictures of a type of projector.
struct Marks {
    /// Looked up in the vocabulary: without them there is no prompt with a picture.
    required: &'static [&'static str],
    /// Written as text, which becomes several tokens where there is no such one.
    expected: &'static [&'static str],
}

fn marks_of(projector_type: &str) -> Marks {
    let required: &[&str] = match projector_type {
        "resampler" | "minicpmv4_6" => &["<image>", "</image>", "<slice>", "</slice>", "\n"],
        "idefics3" => &["<fake_token_around_image>", "<global-img>", "\n\n", "\n"],
        "step3vl" => &[
            "<im_start>",
            "<im_end>",
            "<patch_start>",
            "<patch_end>",
            "<patch_newline>",
        ],
        "lfm2" => &["<|img_thumbnail|>"],
        _ => &[],
    };
    let expected: &[&str] = match projector_type {
        "qwen2vl_merger" | "qwen2.5vl_merger" | "qwen3vl_merger" | "ling3vl" | "mimovl" | "youtuvl" => {
            &["<|vision_start|>", "<|vision_end|>"]
        }
        "minimax_m3" => &["]<]start of image[>[", "]<]end of image[>["],
        "muse-glimmer" | "llama4" | "lfm2" => &["<|image_start|>", "<|image_end|>"],
        "yasa2" => &["<image>", "</image>"],
        "gemma3" | "gemma3nv" => &["<start_of_image>", "<end_of_image>"],
        "pixtral" => &["[IMG_END]"],
        "internvl" => &["<img>", "</img>"],
        "kimivl" => &["<|media_start|>", "<|media_end|>"],
        "lightonocr" => &["<|im_start|>", "<|im_end|>"],
        "dots_ocr" | "dots3note_v" => &["<|img|>", "<|endofimg|>"],
        "glm4v" | "glm5v" => &["<|begin_of_image|>", "<|end_of_image|>"],
        "paddleocr" => &["<|IMAGE_START|>", "<|IMAGE_END|>"],
        "gemma4v" | "gemma4uv" => &["<|image>", "<image|>"],
        "hunyuanvl" => &["<｜hy_place▁holder▁no▁100｜>", "<｜hy_place▁holder▁no▁101｜>"],
        "exaone4_5" => &["<vision>", "</vision>"],
        _ => &[],
    };
    Marks { required, expected }
}

/// A token without which no picture can be put into a prompt, and that the vocabulary lacks.
pub(super) fn missing_required(projector_type: &str, model: &ffi::Model) -> Option<&'static str> {
    let required = marks_of(projector_type).required.iter().copied();
    let pieces = || (0..model.n_vocab() as i32).map(|token| model.piece(token, true));
    required
        .into_iter()
        .find(|mark| !pieces().any(|piece| piece == mark.as_bytes()))
}

/// A token around pictures that the vocabulary lacks, so that it is written in letters.
pub(super) fn missing_expected(projector_type: &str, model: &ffi::Model) -> Option<&'static str> {
    let expected = marks_of(projector_type).expected.iter().copied();
    let is_token = |mark: &str| {
        model
            .tokenize(mark, false, true)
            .is_ok_and(|tokens| tokens.len() == 1)
    };
    expected.into_iter().find(|mark| !is_token(mark))
}
