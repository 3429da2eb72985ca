//! Compiles llama.cpp, mtmd and our C++ with cmake.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::native::settings::Settings;
use crate::native::stage::{NativeDir, write_if_changed};
use crate::native::vulkan;

/// Compiles the target `mtmd` and what it needs; returns the folder of the build.
///
/// # Errors
/// cmake is missing, or the headers of a backend are too old. (When compilation fails, cargo shows the compiler's output.)
pub fn llama_cpp(settings: &Settings, native: &NativeDir) -> Result<PathBuf, String> {
    if !runs("cmake") {
        return Err("cannot find cmake, which compiles llama.cpp: type 'make setup', \
                    or install it (Debian, Ubuntu: apt-get install cmake; macOS: brew install cmake)"
            .to_owned());
    }

    let options = options(settings);
    record_options(&options, &native.variant.join("options.cmake"))?;

    let mut config = cmake::Config::new(&native.source);
    config
        .out_dir(&native.variant)
        .profile("Release")
        .build_target("mtmd");
    for (name, value) in &options {
        config.define(name, value);
    }
    config.define("VISIPRUNER_CPP", settings.cpp());
    if let Some(folder) = vulkan_headers(settings)? {
        config.define("Vulkan_INCLUDE_DIR", folder); // a build before this one may have found others
    }
    // llama.cpp asks git for a commit, and would find ours: every commit would recompile
    config.env("GIT_DIR", native.root.join("no-git"));
    // which make program is there is no property of what is compiled
    if std::env::var_os("CMAKE_GENERATOR").is_none() && !settings.target.contains("msvc") && runs("ninja") {
        config.generator("Ninja");
    }
    use_ccache(&mut config, native);
    config.build();
    Ok(native.variant.join("build"))
}

/// What is compiled and how: everything here can change the library, and the unpatched library that tests compare
/// with is built with the same.
fn options(settings: &Settings) -> Vec<(String, String)> {
    let on = |name: &str, value: bool| (name.to_owned(), if value { "ON" } else { "OFF" }.to_owned());
    let mut options = vec![
        on("LLAMA_BUILD_MTMD", true),
        on("LLAMA_BUILD_COMMON", false),
        on("LLAMA_BUILD_TOOLS", false),
        on("LLAMA_BUILD_SERVER", false),
        on("LLAMA_BUILD_TESTS", false),
        on("LLAMA_BUILD_EXAMPLES", false),
        on("LLAMA_BUILD_APP", false),
        on("LLAMA_OPENSSL", false),
        on("MTMD_VIDEO", false),
        on("BUILD_SHARED_LIBS", false),
        on("CMAKE_POSITION_INDEPENDENT_CODE", true),
        on("GGML_NATIVE", settings.ggml_native),
        // ggml's own thread pool is made anew for every graph unless one is attached; OpenMP's persists.
        // Apple's compiler has none, and cmake goes on without it.
        on("GGML_OPENMP", !settings.apple),
        // a library that one machine has and the next has not
        on("GGML_RPC_RDMA", false),
        // a second library to link, for several GPUs only
        on("GGML_CUDA_NCCL", false),
    ];
    for backend in ["CUDA", "METAL", "RPC", "VULKAN"] {
        options.push(on(
            &format!("GGML_{backend}"),
            settings.backends.contains(&backend),
        ));
    }
    for (name, value) in &settings.cmake_defines {
        options.retain(|(present, _)| present != name);
        options.push((name.clone(), value.clone()));
    }
    if settings.target.starts_with("x86_64") && !settings.target.contains("msvc") {
        leave_amx_out(&mut options);
    }
    options
}

/// With ggml's kernels for AMX some small models end the process (SIGSEGV), and a prompt that is read in other pieces comes out
/// otherwise. ggml has them where the compiler defines this macro.
fn leave_amx_out(options: &mut Vec<(String, String)>) {
    const FLAG: &str = "-U__AMX_INT8__";
    // those of the profile, so that whatever else decides on the rest still does
    for name in ["CMAKE_C_FLAGS_RELEASE", "CMAKE_CXX_FLAGS_RELEASE"] {
        match options.iter_mut().find(|(present, _)| present == name) {
            Some((_, flags)) => *flags = format!("{flags} {FLAG}"),
            None => options.push((name.to_owned(), format!("-O3 -DNDEBUG {FLAG}"))), // cmake's own
        }
    }
}

/// The headers that Vulkan's backend is compiled with, as far as they are not for cmake to find.
fn vulkan_headers(settings: &Settings) -> Result<Option<PathBuf>, String> {
    if !settings.backends.contains(&"VULKAN") {
        return Ok(None);
    }
    let named = settings.cmake_define("Vulkan_INCLUDE_DIR");
    vulkan::headers(named, settings.vulkan_sdk.as_deref(), settings.is_host)
}

/// Writes the options as a file that `cmake -C` reads.
fn record_options(options: &[(String, String)], path: &Path) -> Result<(), String> {
    let text: String = options
        .iter()
        .map(|(name, value)| format!("set({name} \"{value}\" CACHE STRING \"\" FORCE)\n"))
        .collect();
    write_if_changed(path, text.as_bytes())
}

/// Compiles through ccache if it is there, with paths relative to our folder, so that other checkouts hit too.
fn use_ccache(config: &mut cmake::Config, native: &NativeDir) {
    const LAUNCHERS: [&str; 3] = [
        "CMAKE_C_COMPILER_LAUNCHER",
        "CMAKE_CXX_COMPILER_LAUNCHER",
        "CMAKE_CUDA_COMPILER_LAUNCHER",
    ];
    if LAUNCHERS.iter().any(|name| std::env::var_os(name).is_some()) || !runs("ccache") {
        return;
    }
    for name in LAUNCHERS {
        config.define(name, "ccache");
    }
    config
        .env("CCACHE_BASEDIR", &native.root)
        .env("CCACHE_NOHASHDIR", "1");
}

fn runs(program: &str) -> bool {
    let version = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}
