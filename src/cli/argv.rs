//! What llama.cpp's programs take and clap does not know: multi-letter short flags (`-ngl 99`), several pictures in one value
//! (`--image a.png,b.png`).

use std::ffi::OsString;
use std::path::Path;

/// Short flags of more than one letter, and the long flag that each stands for.
const MULTI_LETTER_FLAGS: &[(&str, &str)] = &[
    ("-ngl", "--n-gpu-layers"),
    ("-fa", "--flash-attn"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ub", "--ubatch-size"),
    ("-mm", "--mmproj"),
    ("-hf", "--hf-repo"),
    ("-hfr", "--hf-repo"),
    ("-hff", "--hf-file"),
    ("-hft", "--hf-token"),
    ("-sys", "--system-prompt"),
    ("-dev", "--device"),
    ("-sm", "--split-mode"),
    ("-ts", "--tensor-split"),
    ("-mg", "--main-gpu"),
    ("-nkvo", "--no-kv-offload"),
    ("-np", "--parallel"),
    ("-to", "--timeout"),
];

/// Flags whose value is free text, which may look like a flag.
const TEXT_FLAGS: &[&str] = &[
    "-p",
    "--prompt",
    "-sys",
    "--system-prompt",
    "--system",
    "--image-marker",
];

/// The flag whose value may be several files.
const IMAGE_FLAG: &str = "--image";

/// Replaces multi-letter short flags by the long ones, also in the form `-ngl=99`, and gives each of several pictures a flag
/// of its own. What follows a flag for free text, and everything after `--`, stays as it is.
pub fn expand(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut expanded = Vec::new();
    let mut is_text = false;
    let mut is_image = false;
    let mut is_over = false;
    for arg in args {
        if is_image {
            expanded.extend(one_by_one(arg));
            is_image = false;
            continue;
        }
        is_over |= !is_text && arg == "--";
        let keep = is_text || is_over;
        is_text = !keep && TEXT_FLAGS.iter().any(|&flag| arg == flag);
        is_image = !keep && arg == IMAGE_FLAG;
        expanded.push(if keep { arg } else { expand_one(arg) });
    }
    expanded
}

/// The files of a flag's value, with the flag between them. A file with commas in its name is one.
fn one_by_one(value: OsString) -> Vec<OsString> {
    match value.to_str() {
        Some(names) if names.contains(',') && !Path::new(names).exists() => {
            let mut files = Vec::new();
            for name in names.split(',') {
                if !files.is_empty() {
                    files.push(OsString::from(IMAGE_FLAG));
                }
                files.push(OsString::from(name));
            }
            files
        }
        _ => vec![value],
    }
}

/// Help text with the multi-letter flags before the long ones: `-ngl, --n-gpu-layers`, where clap has left room.
pub fn show_in_help(help: &str) -> String {
    // clap sets flags in bold on a terminal
    let styles = ["", "\u{1b}[1m"];
    MULTI_LETTER_FLAGS
        .iter()
        .fold(help.to_owned(), |help, (short, long)| {
            styles.iter().fold(help, |help, style| {
                help.replace(
                    &format!("      {style}{long}"),
                    &format!("{style}{short:>4}, {long}"),
                )
            })
        })
}

/// A man page with the multi-letter flags before the long ones, where no flag of one letter stands.
pub fn show_in_man_page(page: &str) -> String {
    let in_roff = |flag: &str| format!("\\fB{}\\fR", flag.replace('-', "\\-"));
    MULTI_LETTER_FLAGS
        .iter()
        .fold(page.to_owned(), |page, (short, long)| {
            let [short, long] = [in_roff(short), in_roff(long)];
            page.replace(&format!("\n{long}"), &format!("\n{short}, {long}"))
        })
}

fn expand_one(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else {
        return arg;
    };
    let (flag, value) = match text.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (text, None),
    };
    let Some((_, long)) = MULTI_LETTER_FLAGS.iter().find(|(short, _)| *short == flag) else {
        return arg;
    };
    match value {
        Some(value) => format!("{long}={value}").into(),
        None => (*long).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand_words(line: &str) -> String {
        let expanded = expand(line.split(' ').map(OsString::from));
        let words: Vec<_> = expanded.iter().map(|arg| arg.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn multi_letter_flags_become_long_ones() {
        assert_eq!(
            expand_words("run -m a.gguf -ngl 99 -fa on -ctk q8_0 -ctv f16 -ub 256 -b 512 -mm b.gguf"),
            "run -m a.gguf --n-gpu-layers 99 --flash-attn on --cache-type-k q8_0 --cache-type-v f16 \
             --ubatch-size 256 -b 512 --mmproj b.gguf"
        );
        assert_eq!(expand_words("-ngl=99"), "--n-gpu-layers=99");
        assert_eq!(
            expand_words("-hf u/r:Q8_0 -hff a.gguf -hft x -hfr=u/r"),
            "--hf-repo u/r:Q8_0 --hf-file a.gguf --hf-token x --hf-repo=u/r"
        );
    }

    #[test]
    fn several_pictures_get_a_flag_each() {
        for (given, expanded) in [
            ("--image a.png,b.png -p x,y", "--image a.png --image b.png -p x,y"),
            ("--image a.png --image b,c", "--image a.png --image b --image c"),
            ("-p --image a,b", "-p --image a,b"),
            ("-- --image a,b", "-- --image a,b"),
            ("--image", "--image"),
        ] {
            assert_eq!(expand_words(given), expanded);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a,b.png");
        std::fs::write(&file, "").expect("a file");
        assert_eq!(one_by_one(file.clone().into()), [file]);
    }

    #[test]
    fn help_shows_them() {
        assert_eq!(
            show_in_help(
                "  -b, --batch-size <N>\n      --flash-attn <X>  see --cache-type-k\n      \u{1b}[1m--cache-type-k"
            ),
            "  -b, --batch-size <N>\n -fa, --flash-attn <X>  see --cache-type-k\n\u{1b}[1m-ctk, --cache-type-k"
        );
    }

    #[test]
    fn man_pages_show_them() {
        assert_eq!(
            show_in_man_page(
                "\n\\fB\\-\\-flash\\-attn\\fR \\fI<X>\\fR\n\\fB\\-b\\fR, \\fB\\-\\-flash\\-attn\\fR"
            ),
            "\n\\fB\\-fa\\fR, \\fB\\-\\-flash\\-attn\\fR \\fI<X>\\fR\n\\fB\\-b\\fR, \\fB\\-\\-flash\\-attn\\fR"
        );
    }

    #[test]
    fn text_stays_as_it_is() {
        assert_eq!(expand_words("-p -fa -fa on"), "-p -fa --flash-attn on");
        assert_eq!(expand_words("--prompt -ngl"), "--prompt -ngl");
        assert_eq!(expand_words("-p -- -fa"), "-p -- --flash-attn");
        assert_eq!(expand_words("-p -p -fa"), "-p -p --flash-attn");
        assert_eq!(expand_words("-sys -fa -fa"), "--system-prompt -fa --flash-attn");
        assert_eq!(expand_words("-- -ngl"), "-- -ngl");
        assert_eq!(expand_words("-nglx -n 3 -f"), "-nglx -n 3 -f");
    }
}
