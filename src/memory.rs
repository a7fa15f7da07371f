//! How this process holds memory.

/// Keeps memory that is freed for the next allocation. A step of training allocates and frees the same gigabytes
/// again and again; given back in between, the system zeroes their pages anew each time, which takes a sixth of a
/// step in bfloat16 (`docs/training-speed.md`). For a process that computes until it ends; other allocators
/// than glibc's are left as they are.
pub(crate) fn keep_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        // The largest that is not mapped by itself: as much as glibc takes.
        (libc::M_MMAP_THRESHOLD, 32 << 20),
        // Free memory at the end that is given back.
        (libc::M_TRIM_THRESHOLD, i32::MAX),
        // What is asked for beyond the need.
        (libc::M_TOP_PAD, 64 << 20),
    ] {
        // SAFETY: it sets a number; what it refuses stays as it was.
        unsafe { libc::mallopt(parameter, value) };
    }
}
