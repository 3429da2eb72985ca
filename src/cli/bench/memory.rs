//! The most memory that the process ever held, where the system tells.

/// Starts to count anew. False where the system cannot.
pub fn reset_peak() -> bool {
    // proc(5): 5 resets the peak resident set size
    cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Bytes of memory at the peak since [`reset_peak`], those of mapped files included.
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_and_forgotten() {
        const MIB: u64 = 1 << 20;
        if !reset_peak() {
            eprintln!("skipped: this system does not let the peak be reset");
            return;
        }
        let before = peak().expect("Linux has VmHWM");
        drop(std::hint::black_box(vec![1u8; 256 << 20]));
        let with = peak().expect("Linux has VmHWM");
        assert!(with >= before + 200 * MIB, "{before} {with}");
        assert!(reset_peak());
        let after = peak().expect("Linux has VmHWM");
        assert!(after + 200 * MIB < with, "{after} {with}");
    }
}
