//! Builds the native part, if the feature `native` asks for it: see `build/mod.rs`.

#[cfg(feature = "native")]
#[path = "build/mod.rs"]
mod native;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "native")]
    if let Err(message) = native::build() {
        println!("cargo::error={message}");
        std::process::exit(1);
    }
}
