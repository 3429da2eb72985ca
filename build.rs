//! Builds the native part: see the `build/` folder.
fn main() {}
