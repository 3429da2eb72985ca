//! Where the build finds llama.cpp's source.

#[path = "../build"]
mod native {
    #[path = "patch.rs"]
    #[allow(dead_code, reason = "the build itself uses the rest")]
    pub mod patch;
    #[path = "settings.rs"]
    #[allow(dead_code, reason = "the build itself uses the rest")]
    pub mod settings;
    #[path = "source.rs"]
    #[allow(dead_code, reason = "the build itself uses the rest")]
    pub mod source;
    #[path = "stage.rs"]
    #[allow(dead_code, reason = "the build itself uses the rest")]
    pub mod stage;
}

use std::fs;
use std::path::{Path, PathBuf};

use native::settings::Settings;
use native::source::locate;

/// A build of the package in `manifest_dir`, where no cargo answers.
fn settings(manifest_dir: &Path) -> Settings {
    Settings {
        cargo: "no-such-cargo".into(),
        manifest_dir: manifest_dir.to_owned(),
        out_dir: manifest_dir.join("out"),
        native_dir: manifest_dir.join("out"),
        target: String::new(),
        is_host: true,
        target_os: String::new(),
        apple: false,
        llama_cpp: None,
        cmake_defines: Vec::new(),
        ggml_native: true,
        backends: Vec::new(),
        vulkan_sdk: None,
        docs_rs: false,
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

/// Our package in a folder, with the mark of cargo, beside a package that carries a llama.cpp.
fn unpacked(folder: &Path, mark: &str, beside: &str, version: &str) -> (PathBuf, PathBuf) {
    let ours = folder.join("visipruner");
    write(&ours.join(mark), "");
    write(&ours.join("Cargo.lock"), "version = 4\n");
    write(
        &ours.join("vendor/upstream.toml"),
        "package = \"llama-cpp-sys-2\"\nversion = \"1.2.3\"\n",
    );
    let other = folder.join(beside);
    let manifest = format!("[package]\nname = \"llama-cpp-sys-2\"\nversion = \"{version}\"\n");
    write(&other.join("Cargo.toml"), &manifest);
    for part in ["", "src", "tools/mtmd"] {
        write(&other.join("llama.cpp").join(part).join("CMakeLists.txt"), "");
    }
    (ours, other.join("llama.cpp"))
}

#[test]
fn it_stands_beside_what_cargo_unpacked_or_vendored() {
    for (mark, beside) in [
        (".cargo-ok", "llama-cpp-sys-2-1.2.3"),
        (".cargo-checksum.json", "llama-cpp-sys-2"),
        (".cargo-checksum.json", "llama-cpp-sys-2-1.2.3"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, source) = unpacked(folder.path(), mark, beside, "1.2.3");
        assert_eq!(
            locate(&settings(&ours)).map(|found| found.dir),
            Ok(source),
            "{mark}"
        );
    }
}

#[test]
fn another_version_or_a_folder_of_ones_own_is_not_taken() {
    for (mark, version) in [(".cargo-ok", "1.2.4"), ("README.md", "1.2.3")] {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, _) = unpacked(folder.path(), mark, "llama-cpp-sys-2", version);
        let error = locate(&settings(&ours))
            .map(|found| found.dir)
            .expect_err("cargo is asked");
        for part in ["no-such-cargo", "VISIPRUNER_LLAMA_CPP"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
