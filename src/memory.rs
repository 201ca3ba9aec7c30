//! What the allocator keeps of memory that was freed.

/// Freed memory at the end of a heap from which on it goes back to the system, and the size from which on an
/// allocation is a mapping of its own, in bytes. glibc grows both with the largest block that was ever freed (to 64
/// and 32 MiB): a single listing of a large directory would hold tens of MiB for good. Above our largest buffers
/// (1 MiB), so that steady work neither maps nor faults anew.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 4 << 20;

/// Makes the allocator give back what is no longer used. Other libraries than glibc do so by themselves.
pub fn give_back_what_is_freed() {
    #[cfg(target_env = "gnu")]
    for option in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
        // SAFETY: sets a number of the allocator's, before there is a second thread. One that it does not take changes nothing.
        unsafe { libc::mallopt(option, KEPT) };
    }
}
