//! Kernel calls that have no safe wrapper. One of the two files with `unsafe`.
//!
//! Nothing here keeps a pointer that outlives its call, except the range given to
//! [`survive_bus_errors`], which is only compared with.
#![allow(unsafe_code, reason = "libc calls that nix and rustix do not wrap; each block is argued")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{io, ptr};

use osps_heart::sync::{Ordering, Word};

/// Marks every descriptor from `first` on close-on-exec: what a shell or CI left open in us must
/// not reach our servers. Needs Linux 5.11; on an older kernel nothing happens.
pub fn close_on_exec_from(first: u32) {
    const CLOEXEC: libc::c_int = 4; // CLOSE_RANGE_CLOEXEC
    // SAFETY: close_range with this flag changes only a flag of descriptors, no memory.
    let _ = unsafe { libc::close_range(first, libc::c_uint::MAX, CLOEXEC) };
}

/// Whether this thread is scheduled as most are: neither in real time nor behind all others.
pub fn has_usual_policy() -> bool {
    // SAFETY: takes and gives numbers; 0 is this thread.
    unsafe { libc::sched_getscheduler(0) == libc::SCHED_OTHER }
}

/// What this thread starts has the usual priority, whatever it has itself.
pub fn reset_priority_on_fork() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    let policy = libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel only reads `parameter`, which lives over the call; 0 is this thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to the whole process group led by this process. Race-free from Linux 6.9 on;
/// `Err(EINVAL)` before.
pub fn signal_group(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    const GROUP: libc::c_uint = 4; // PIDFD_SIGNAL_PROCESS_GROUP
    let info: *const libc::siginfo_t = ptr::null();
    // SAFETY: a null siginfo is allowed and means "as kill(2)"; the descriptor is borrowed, so
    // open.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, GROUP)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether signals can be sent through pidfds at all: asks without sending one.
pub fn may_signal(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    // Signal 0 is never delivered.
    signal(pidfd, 0)
}

/// Sends a signal that has no name, as those of the real-time ones.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = ptr::null();
    // SAFETY: a null siginfo is allowed and means "as kill(2)"; the descriptor is borrowed, so
    // open; a number that is no signal is refused.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The status of a process that somebody else reaped, as wait(2) has it. Needs Linux 6.15; `None` =
/// it is not known, or not yet.
pub fn status_of_reaped(pidfd: BorrowedFd<'_>) -> Option<i32> {
    /// `struct pidfd_info` in its first size (linux/pidfd.h).
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        status: i32,
    }
    const SIZE: libc::c_ulong = size_of::<Info>() as libc::c_ulong;
    const REQUEST: libc::c_ulong = 0xC000_FF0B | (SIZE << 16); // PIDFD_GET_INFO
    const EXIT: u64 = 8; // PIDFD_INFO_EXIT
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the size in the request is that of `info`, which lives over the call and into which
    // the kernel writes no more than that; the descriptor is borrowed, so open.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), REQUEST, &raw mut info) };
    (result == 0 && info.mask & EXIT != 0).then_some(info.status)
}

/// A duplicate of a descriptor that is known by its number alone: one that was handed over an exec.
pub fn copy_of(number: i32) -> Option<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory, and refuses a number that is not open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: what the kernel just gave us is open and nobody else's.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Lets such a descriptor go on over the next exec.
pub fn keep_over_exec(number: i32) {
    // SAFETY: F_SETFD touches no memory, and refuses a number that is not open.
    let _ = unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
}

/// Closes such a descriptor, which nobody owns.
pub fn close(number: i32) {
    // SAFETY: only numbers that were handed over an exec come here, once; nothing in this image
    // owns them.
    let _ = unsafe { libc::close(number) };
}

/// Sets every signal back to its default action, as a fresh program expects: an ignored one is
/// inherited over exec. To be called before a program is exec'd, with one thread.
pub fn default_signals() {
    // The kernel refuses KILL and STOP, which are default for ever.
    for signal in 1..=libc::SIGRTMAX() {
        default_signal(signal);
    }
}

/// Sets a signal back to its default action. The call itself, since the C library refuses its own
/// two (32 and 33), which a parent may have ignored all the same.
pub fn default_signal(signal: i32) {
    // Handler, flags, restorer where there is one, mask: default, none, none, empty.
    let action = [0_u64; 4];
    let old: *mut u64 = ptr::null_mut();
    // SAFETY: the kernel reads at most 32 bytes, all zero, which is a valid action for every
    // signal; a number that has none is refused. 8 is the size of its set of signals.
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), old, size_of::<u64>());
    };
}

/// Replaces this thread's signal mask, bit `n - 1` for signal `n`; returns the old one. The call
/// itself and not the C library's, which leaves its own two real-time signals (32 and 33) out: they
/// would end the process like any other.
pub fn mask_signals(mask: u64) -> io::Result<u64> {
    let mut old = 0_u64;
    // SAFETY: both pointers are to 8 bytes that live over the call, and 8 is the size of the
    // kernel's set on all 64-bit machines.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut old,
            size_of::<u64>(),
        )
    };
    if result == 0 { Ok(old) } else { Err(io::Error::last_os_error()) }
}

static RANGE_START: Word = Word::new(0);
static RANGE_END: Word = Word::new(0);
static BUS_ERRORS: Word = Word::new(0);

/// Lets the watchdog survive somebody cutting the segment short: a fault inside `start..end` is
/// answered with a page of zeros. Not a means of monitoring; the only signal handler of osps.
pub fn survive_bus_errors(start: usize, end: usize) -> io::Result<()> {
    RANGE_START.store(start as u64, Ordering::Relaxed);
    RANGE_END.store(end as u64, Ordering::Relaxed);
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    // SAFETY: all zeros is a valid sigaction (default action, empty mask, no flags).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is complete and lives over the call; the handler is async-signal-safe: it
    // uses atomics, mmap and signal only.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Faults survived so far: more than zero means that the segment is damaged.
pub fn bus_errors() -> u64 {
    BUS_ERRORS.load(Ordering::Relaxed)
}

extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let info = unsafe { &*info };
    if info.si_code <= 0 {
        // Sent by a process: there is no fault, and nothing to do.
        return;
    }
    // SAFETY: for SIGBUS the address field is the one that is set.
    let address = unsafe { info.si_addr() } as usize;
    let page = address & !0xfff;
    let inside = (RANGE_START.load(Ordering::Relaxed)..RANGE_END.load(Ordering::Relaxed))
        .contains(&(page as u64));
    if !inside {
        // Not ours to mend: the fault repeats and ends the process as it would have.
        // SAFETY: SIG_DFL is a valid action.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: the page lies inside our own mapping of the segment, which holds atomic words only:
    // zeros are valid for them.
    unsafe {
        libc::mmap(
            page as *mut libc::c_void,
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    BUS_ERRORS.fetch_add(1, Ordering::Relaxed);
}
