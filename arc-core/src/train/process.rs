//! What this process has used, where the system tells.

/// Ticks of the kernel's clock in a second, in what it tells processes: the same on all of Linux.
const TICKS: f64 = 100.0;

/// Processor seconds of all threads so far; on Linux alone.
#[must_use]
pub fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

/// The most memory that was resident so far, in bytes; on Linux alone.
#[must_use]
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_counted() {
        let before = cpu_seconds().expect("Linux tells");
        let mut block = vec![1_u8; 64 << 20];
        while cpu_seconds().expect("Linux tells") < before + 0.02 {
            block.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            std::hint::black_box(&mut block);
        }
        // The kernel counts pages in batches.
        assert!(peak_memory().expect("Linux tells") > 48 << 20);
    }
}
