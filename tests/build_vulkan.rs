//! Vulkan headers that are too old for llama.cpp are told from others before anything is compiled.

#[path = "../build/vulkan.rs"]
mod vulkan;

use std::fs;
use std::path::Path;

use vulkan::headers;

/// What `vulkan_core.h` says of itself, and what it may have.
fn write_header(folder: &Path, patch: u32, more: &str) {
    fs::create_dir_all(folder.join("vulkan")).expect("a folder");
    let text = format!(
        "#define VK_HEADER_VERSION {patch}\n\
         #define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)\n{more}\n"
    );
    fs::write(folder.join("vulkan/vulkan_core.h"), text).expect("a file");
}

#[test]
fn headers_that_are_too_old_are_an_error_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    write_header(&folder.path().join("include"), 239, "#define VK_EXT_layer 1");
    let error = headers(None, Some(folder.path()), false).expect_err("too old");
    let folder = folder.path().join("include").display().to_string();
    for part in [
        &folder,
        "1.3.239",
        "VK_EXT_layer_settings",
        "1.4.309",
        "VULKAN_SDK",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn the_headers_that_cmake_would_take_are_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (folder.path().join("old"), folder.path().join("sdk/include"));
    write_header(&old, 239, "");
    write_header(&new, 309, "#define VK_EXT_layer_settings 1");
    let sdk = folder.path().join("sdk");
    assert_eq!(headers(None, Some(&sdk), false), Ok(Some(new.clone())));
    assert_eq!(
        headers(Some(&new.display().to_string()), None, false),
        Ok(Some(new))
    );
    assert!(headers(Some(&old.display().to_string()), Some(&sdk), false).is_err());
    assert_eq!(
        headers(None, Some(folder.path()), false),
        Ok(None),
        "none are left to cmake"
    );
}
