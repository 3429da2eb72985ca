//! Generates the Rust declarations of what we call in llama.cpp, mtmd and our own C++.

use std::panic;

use crate::native::settings::Settings;
use crate::native::stage::{NativeDir, write_if_changed};

const FUNCTIONS: [&str; 8] = [
    "llama_.*",
    "mtmd_.*",
    "vp_.*",
    "gguf_.*",
    "ggml_(log_set|set_abort_callback|get_type_traits|type_.*|blck_size|row_size|is_quantized)",
    "ggml_backend_(load|load_all|load_all_from_path|free|name|tensor_set)",
    "ggml_backend_dev_.*",
    "ggml_backend_reg_.*",
];
const TYPES: [&str; 6] = [
    "llama_.*",
    "mtmd_.*",
    "vp_.*",
    "gguf_.*",
    "ggml_(type|log_level|log_callback)",
    "ggml_backend_dev_.*",
];
const CONSTANTS: [&str; 8] = [
    "LLAMA_.*",
    "MTMD_.*",
    "VP_.*",
    "GGUF_.*",
    "GGML_TYPE_.*",
    "GGML_LOG_.*",
    "GGML_BACKEND_DEVICE_.*",
    "RPC_PROTO_.*",
];

/// Writes `bindings.rs` to `OUT_DIR`.
///
/// # Errors
/// libclang is missing, or a header does not parse.
pub fn generate(settings: &Settings, native: &NativeDir) -> Result<(), String> {
    let wrapper = settings.manifest_dir.join("src").join("ffi").join("wrapper.h");
    println!("cargo::rerun-if-changed={}", wrapper.display());

    let includes = ["include", "ggml/include", "tools/mtmd"].map(|dir| native.source.join(dir));
    let mut builder = bindgen::Builder::default()
        .header(wrapper.display().to_string())
        .clang_arg(format!("--target={}", settings.target))
        .clang_arg(format!("-I{}", settings.cpp().display()))
        .clang_args(includes.iter().map(|dir| format!("-I{}", dir.display())))
        .allowlist_recursively(true)
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false);
    for pattern in FUNCTIONS {
        builder = builder.allowlist_function(pattern);
    }
    for pattern in TYPES {
        builder = builder.allowlist_type(pattern);
    }
    for pattern in CONSTANTS {
        builder = builder.allowlist_var(pattern);
    }

    let bindings = load_libclang_and(|| builder.generate())?
        .map_err(|e| format!("cannot generate bindings for llama.cpp's headers: {e}"))?;
    write_if_changed(
        &settings.out_dir.join("bindings.rs"),
        bindings.to_string().as_bytes(),
    )
}

/// bindgen panics when it finds no libclang; that is a missing package, and says so in one line.
fn load_libclang_and<T>(generate: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(generate));
    panic::set_hook(hook);
    result.map_err(|payload| {
        let reason = payload.downcast_ref::<String>().map_or("", String::as_str);
        let reason = reason.lines().next().unwrap_or_default();
        format!(
            "cannot load libclang, which generates the bindings: type 'make setup', \
             or install it (Debian, Ubuntu: apt-get install libclang-dev; macOS: brew install llvm). {reason}"
        )
    })
}
