//! All randomness that the code under test asks the system for comes from the seed, and the date does not change.
//!
//! `Entropy` is handed out and seeded anyway. What is left asks behind everybody's back: keys, serial numbers and
//! signatures (aws-lc), the order of hash maps (the standard library), which branch of a `select!` comes first (tokio, through
//! a hash map's key), UUIDs and names of temporary files. They end in three places, and this module takes them all:
//! libc's `getrandom`, which this program defines in libc's stead, the entropy source of aws-lc, which has a function for tests
//! that want another one, and SQLite's `random()`, which has one, too.
//!
//! The date is asked for by libraries that have no `Clock`: it is in the headers of answers and in TLS tickets.
//!
//! Once [`seed`] was called the whole process is as random as its seed, so one process runs one seed. Never link this into
//! anything that has a secret to keep.

#![expect(unsafe_code, reason = "C interfaces are taken over; nothing safe leads to them")]

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use vouchsafe_runtime::entropy::spread;

/// From now on all randomness of this process comes from `seed`.
pub fn seed(seed: u64) {
    let state = spread(format!("randomness {seed}").as_bytes()).to_bits();
    STATE.store(state | 1, Ordering::Relaxed);
    // SAFETY: the table is static and laid out as aws-lc has it (crypto/fipsmodule/rand/entropy/internal.h).
    unsafe { override_entropy_source(&SOURCE) };
    // SAFETY: the arguments of this operation: a number that is not 0, and no connection.
    unsafe { sqlite3_test_control(PRNG_SEED, state as c_int | 1, ptr::null_mut::<c_void>()) };
}

/// `splitmix64`; 0 as long as nobody gave a seed.
static STATE: AtomicU64 = AtomicU64::new(0);
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let x = STATE.fetch_add(GAMMA, Ordering::Relaxed);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(x ^ (x >> 31)).to_le_bytes()[..chunk.len()]);
    }
}

/// In libc's stead, for everything in this process: the linker takes a program's own symbol first.
///
/// # Safety
///
/// As getrandom(2): `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if STATE.load(Ordering::Relaxed) == 0 {
        // SAFETY: passed on as it came.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    }
    // SAFETY: the caller's promise.
    fill(unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) });
    length as isize
}

/// In libc's stead, too. Time that passes is still told: a paused clock begins with it and then asks no more.
///
/// # Safety
///
/// As clock_gettime(2): `time` has room for one.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    if STATE.load(Ordering::Relaxed) == 0 || clock != libc::CLOCK_REALTIME {
        // SAFETY: passed on as it came.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int };
    }
    // SAFETY: the caller's promise.
    unsafe { time.write(libc::timespec { tv_sec: DATE, tv_nsec: 0 }) };
    0
}

/// Where all clocks of a simulation begin.
pub const DATE: i64 = 1_900_000_000;

/// `struct entropy_source_methods` of aws-lc.
#[repr(C)]
struct EntropySource {
    initialize: extern "C" fn(*mut c_void) -> c_int,
    zeroize_thread: extern "C" fn(*mut c_void),
    free_thread: extern "C" fn(*mut c_void),
    get_seed: unsafe extern "C" fn(*const c_void, *mut u8) -> c_int,
    extra_entropy: Option<unsafe extern "C" fn(*const c_void, *mut u8) -> c_int>,
    prediction_resistance: Option<unsafe extern "C" fn(*const c_void, *mut u8) -> c_int>,
    id: c_int,
}

static SOURCE: EntropySource = EntropySource {
    initialize,
    zeroize_thread: nothing,
    free_thread: nothing,
    get_seed,
    extra_entropy: None,
    prediction_resistance: None,
    id: 0,
};

extern "C" fn initialize(_: *mut c_void) -> c_int {
    1
}

extern "C" fn nothing(_: *mut c_void) {}

/// # Safety
///
/// aws-lc gives room for as many bytes as a seed has.
unsafe extern "C" fn get_seed(_: *const c_void, seed: *mut u8) -> c_int {
    // SAFETY: the caller's promise.
    fill(unsafe { std::slice::from_raw_parts_mut(seed, SEED) });
    1
}

/// `CTR_DRBG_ENTROPY_LEN` of aws-lc.
const SEED: usize = 48;

unsafe extern "C" {
    // The name has the version of aws-lc-sys in it. After an update the linker says that it is unknown: put the new version
    // here, and look whether the table above is still the same.
    #[link_name = "aws_lc_0_47_0_override_entropy_source_method_FOR_TESTING"]
    fn override_entropy_source(methods: *const EntropySource);
    fn sqlite3_test_control(operation: c_int, ...) -> c_int;
}

/// `SQLITE_TESTCTRL_PRNG_SEED`.
const PRNG_SEED: c_int = 28;
