//! What C++ calls where it checks the type of an object (`-fsanitize=vptr`). Rust's runtime of sanitizers, which fuzz targets are
//! linked with, lacks it: here nothing is checked. `make asan` does check it.

/// Hashes of types that were checked.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "its name in C++")]
static mut __ubsan_vptr_type_cache: [usize; 128] = [0; 128];

#[unsafe(no_mangle)]
extern "C" fn __ubsan_handle_dynamic_type_cache_miss(_data: *const u8, _object: usize, _hash: usize) {}
