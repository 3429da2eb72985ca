//! The native part, phase by phase: llama.cpp's source is found, staged with our patches applied, bound and
//! compiled together with our own C++ (`src/ffi/cpp`), and linked.
//!
//! Phases that fail say in one line what was attempted and what to do about it.

mod bindings;
mod compile;
mod link;
mod patch;
mod settings;
mod source;
mod stage;
mod vulkan;

use settings::Settings;

/// Runs every phase.
///
/// # Errors
/// One line for the user of cargo.
pub fn build() -> Result<(), String> {
    let settings = Settings::from_env()?;
    settings.watch();

    let source = source::locate(&settings)?;
    let native = stage::open(&settings)?;
    stage::source(&source, &settings.patches(), &native)?;
    bindings::generate(&settings, &native)?;

    // docs.rs has neither the time nor the need to compile: the bindings are all that rustdoc looks at
    if settings.docs_rs {
        return Ok(());
    }

    let built = compile::llama_cpp(&settings, &native)?;
    link::libraries(&settings, &native, &built)
}
