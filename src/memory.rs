//! How this process holds memory.

/// Takes memory from one place for all threads, so that what one has freed the next gets: the tables that a
/// vocabulary is read into, say, for the encoder that is opened afterwards. Commands compute in large pieces and
/// seldom ask for memory, so that threads do not wait for each other. To be called before there are any; other
/// allocators than glibc's are left as they are.
pub(crate) fn share_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number; where it is refused that stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

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
