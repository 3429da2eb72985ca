//! Tells cargo what to link.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::native::settings::{Settings, read_text};
use crate::native::stage::NativeDir;

/// Links the libraries that cmake made and the system libraries that they need.
///
/// # Errors
/// A library that must be there is not.
pub fn libraries(settings: &Settings, native: &NativeDir, build: &Path) -> Result<(), String> {
    let mut found = BTreeMap::new();
    find_libraries(build, &mut found)?;
    for name in ["mtmd", "llama", "ggml", "ggml-base"] {
        if !found.contains_key(name) {
            return Err(format!(
                "cmake made no library '{name}' under {}",
                build.display()
            ));
        }
    }

    let mut names: Vec<&String> = found.keys().collect();
    names.sort_by_key(|name| link_order(name));
    for name in names {
        let library = &found[name];
        println!("cargo::rustc-link-search=native={}", library.dir.display());
        println!(
            "cargo::rustc-link-lib={}={name}",
            if library.shared { "dylib" } else { "static" }
        );
        if library.shared {
            run_time_path(&library.dir, settings);
        }
    }

    let cache = CMakeCache::read(&build.join("CMakeCache.txt"))?;
    openmp(&cache);
    for backend in ["ggml-metal", "ggml-blas", "ggml-cuda", "ggml-vulkan"] {
        // a shared library brings its own
        if found.get(backend).is_some_and(|library| !library.shared) {
            backend_libraries(backend, settings, &cache);
        }
    }
    if settings.apple {
        framework("Accelerate");
        println!("cargo::rustc-link-lib=dylib=c++");
    } else if !settings.target.contains("msvc") {
        println!("cargo::rustc-link-lib=dylib=stdc++");
    }

    // for packages that depend on this one: DEP_VISIPRUNER_ROOT and DEP_VISIPRUNER_INCLUDE
    println!("cargo::metadata=root={}", native.variant.display());
    println!(
        "cargo::metadata=include={}",
        native.source.join("include").display()
    );
    Ok(())
}

struct Library {
    dir: PathBuf,
    shared: bool,
}

/// Every library that stands under `dir`, by its name; a static one is preferred.
fn find_libraries(dir: &Path, found: &mut BTreeMap<String, Library>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot list {}: {e}", dir.display());
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            if !path.ends_with("CMakeFiles") {
                find_libraries(&path, found)?;
            }
        } else if let Some((name, shared)) = library_name(&path)
            && (!shared || !found.contains_key(&name))
        {
            let dir = dir.to_path_buf();
            found.insert(name, Library { dir, shared });
        }
    }
    Ok(())
}

/// `libllama.a` or `llama.lib` (static), `libllama.so` or `libllama.dylib` (shared).
fn library_name(path: &Path) -> Option<(String, bool)> {
    let stem = path.file_stem()?.to_str()?;
    match path.extension()?.to_str()? {
        "a" => Some((stem.strip_prefix("lib")?.to_owned(), false)),
        "lib" => Some((stem.to_owned(), false)),
        // loadable backends are found by ggml at run time and not linked
        "so" | "dylib" => {
            let name = stem.strip_prefix("lib")?;
            let linked = ["mtmd", "llama", "ggml", "ggml-base"].contains(&name);
            linked.then(|| (name.to_owned(), true))
        }
        _ => None,
    }
}

/// Linkers resolve from left to right: users before what they use.
fn link_order(name: &str) -> usize {
    match name {
        "mtmd" => 0,
        "llama" => 2,
        "ggml" => 3,
        "ggml-cpu" => 5,
        "ggml-base" => 6,
        backend if backend.starts_with("ggml-") => 4,
        // what mtmd uses
        _ => 1,
    }
}

/// The OpenMP runtime that cmake found, if any: which one it is depends on the compiler.
fn openmp(cache: &CMakeCache) {
    for name in cache
        .list("OpenMP_CXX_LIB_NAMES")
        .filter(|name| *name != "pthread")
    {
        if let Some(dir) = cache
            .get(&format!("OpenMP_{name}_LIBRARY"))
            .and_then(|path| Path::new(path).parent())
        {
            println!("cargo::rustc-link-search=native={}", dir.display());
        }
        println!("cargo::rustc-link-lib=dylib={name}");
    }
}

fn backend_libraries(backend: &str, settings: &Settings, cache: &CMakeCache) {
    match backend {
        "ggml-metal" => ["Foundation", "Metal", "MetalKit"]
            .into_iter()
            .for_each(framework),
        "ggml-cuda" => {
            // the driver (libcuda) is not among them: src/ffi/cpp/vp-cuda-driver.cpp looks it up
            for library in ["CUDA_cudart_LIBRARY", "CUDA_cublas_LIBRARY"] {
                if let Some(dir) = cache.get(library).and_then(|path| Path::new(path).parent()) {
                    println!("cargo::rustc-link-search=native={}", dir.display());
                    run_time_path(dir, settings);
                }
            }
            for library in ["cudart", "cublas", "cublasLt"] {
                println!("cargo::rustc-link-lib=dylib={library}");
            }
        }
        "ggml-vulkan" => {
            let name = if settings.target_os == "windows" {
                "vulkan-1"
            } else {
                "vulkan"
            };
            if let Some(dir) = cache
                .get("Vulkan_LIBRARY")
                .and_then(|path| Path::new(path).parent())
            {
                println!("cargo::rustc-link-search=native={}", dir.display());
            }
            println!("cargo::rustc-link-lib=dylib={name}");
        }
        "ggml-blas" if !settings.apple => {
            for path in cache
                .list("BLAS_LIBRARIES")
                .chain(cache.list("BLAS_openblas_LIBRARY"))
            {
                println!("cargo::rustc-link-arg={path}");
            }
        }
        _ => {}
    }
}

/// Lets the program find shared libraries where they were linked from, or, in a program that travels with them, beside it:
/// there the libraries find each other by the same definition of cmake's.
fn run_time_path(dir: &Path, settings: &Settings) {
    if settings.target_os == "windows" {
        return;
    }
    let beside = settings.cmake_define("CMAKE_BUILD_RPATH_USE_ORIGIN") == Some("ON");
    match settings.target_os.as_str() {
        "macos" if beside => println!("cargo::rustc-link-arg=-Wl,-rpath,@loader_path"),
        _ if beside => println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN"),
        _ => println!("cargo::rustc-link-arg=-Wl,-rpath,{}", dir.display()),
    }
}

fn framework(name: &str) {
    println!("cargo::rustc-link-lib=framework={name}");
}

/// What cmake found out.
struct CMakeCache(BTreeMap<String, String>);

impl CMakeCache {
    fn read(path: &Path) -> Result<Self, String> {
        let text = read_text(path)?;
        // NAME:TYPE=VALUE
        let entries = text.lines().filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let (name, _) = key.split_once(':')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Ok(Self(entries.collect()))
    }

    /// A value that is set and was found.
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?;
        (!value.is_empty() && !value.ends_with("-NOTFOUND")).then_some(value)
    }

    /// The items of a cmake list.
    fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).into_iter().flat_map(|value| value.split(';'))
    }
}
