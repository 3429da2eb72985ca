//! What llama.cpp's Vulkan backend needs of the machine, looked at before cmake: what is missing or too old there ends
//! in a wall of C++ errors.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the headers say what they are.
const HEADER: &str = "vulkan/vulkan_core.h";
/// The youngest part of Vulkan that the pinned llama.cpp cannot do without.
const NEEDED: &str = "VK_EXT_layer_settings";
/// Headers that have it, which `build/vulkan.sh` pins.
const KNOWN_GOOD: &str = "1.4.309";

/// Where cmake looks for headers that are nowhere else.
const SYSTEM: [&str; 3] = ["/usr/include", "/usr/local/include", "/opt/homebrew/include"];

/// Looks at the headers that cmake will find: in the folder that it is told (`Vulkan_INCLUDE_DIR`), in the SDK, and, if this
/// machine is the one compiled for, where its system has them. Returns the folder; headers elsewhere are left to cmake.
///
/// # Errors
/// They are too old.
pub fn headers(named: Option<&str>, sdk: Option<&Path>, is_host: bool) -> Result<Option<PathBuf>, String> {
    let sdk = sdk
        .iter()
        .flat_map(|sdk| [sdk.join("include"), sdk.join("Include")]);
    let system = SYSTEM.iter().filter(|_| is_host).map(PathBuf::from);
    let mut folders = named.into_iter().map(PathBuf::from).chain(sdk).chain(system);
    let Some(folder) = folders.find(|folder| folder.join(HEADER).is_file()) else {
        return Ok(None);
    };
    let path = folder.join(HEADER);
    let text = fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    check(&folder, &String::from_utf8_lossy(&text))?;
    Ok(Some(folder))
}

/// Whether a `vulkan_core.h` is new enough for llama.cpp.
///
/// # Errors
/// It is not: says which one it is, what it lacks, and where newer ones come from.
fn check(folder: &Path, header: &str) -> Result<(), String> {
    if header.contains(NEEDED) {
        return Ok(());
    }
    Err(format!(
        "the Vulkan headers in {} are too old: {} has no {NEEDED}, which llama.cpp needs ({KNOWN_GOOD} have it); \
         'make vulkan-sdk' fetches newer ones, or install the Vulkan SDK (https://vulkan.lunarg.com), \
         and set VULKAN_SDK to the folder that holds their include/",
        folder.display(),
        version(header).unwrap_or_else(|| "their version".to_owned()),
    ))
}

/// `1.3.239`, as `vulkan_core.h` has it in two definitions.
fn version(header: &str) -> Option<String> {
    let value_of = |name: &str| {
        let line = header
            .lines()
            .find(|line| line.starts_with(&format!("#define {name} ")))?;
        Some(line.split_whitespace().skip(2).collect::<String>())
    };
    let complete = value_of("VK_HEADER_VERSION_COMPLETE")?; // VK_MAKE_API_VERSION(0,1,3,VK_HEADER_VERSION)
    let mut parts = complete.split(['(', ',', ')']).skip(2).map(str::trim);
    let (major, minor) = (parts.next()?, parts.next()?);
    Some(format!("{major}.{minor}.{}", value_of("VK_HEADER_VERSION")?))
}
