//! Tiles: matrices of 16 rows of 64 bytes that Advanced Matrix Extensions multiply.
//!
//! Their state takes 8 KiB of a thread's, so Linux gives it only to processes that ask. Intrinsics for
//! them are not stable; the assembly that uses them names what it changes.

use std::arch::asm;

/// The rows of a tile.
pub(super) const ROWS: usize = 16;
/// The bytes of a row.
pub(super) const ROW_BYTES: usize = 64;

/// Whether the processor has tiles of bytes and of bfloat16, and the system lets this process use them.
pub(super) fn is_granted() -> bool {
    let features = raw_cpuid::CpuId::new().get_extended_feature_info().is_some_and(|features| {
        features.has_amx_tile() && features.has_amx_bf16() && features.has_amx_int8()
    });
    features && is_x86_feature_detected!("avx512f") && ask()
}

/// Asks the system for the state of tiles, for all threads of this process.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let answer: i64;
    // SAFETY: the call changes nothing but what this process may use; the kernel keeps all other
    // registers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// Elsewhere nobody has tried.
#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

/// The shape of all eight tiles: whole. It lasts until it is dropped, on the thread that made it.
pub(super) struct TileRegisters {
    /// Tiles are a thread's own.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl TileRegisters {
    /// # Safety
    /// [`is_granted`] said so.
    pub(super) unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(ROW_BYTES as u16);
        configuration.rows[..8].fill(ROWS as u8);
        // SAFETY: the palette is that of eight tiles of up to 16 rows of 64 bytes.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const configuration,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        Self { _not_send: std::marker::PhantomData }
    }
}

impl Drop for TileRegisters {
    fn drop(&mut self) {
        // SAFETY: tiles exist where this value does.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
