//! System calls by their numbers, as far as programs wait in them: their names, and what they wait
//! for. Numbers come from the C library, so they are those of the machine.

/// What the arguments of a call say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first one is a descriptor, and this is waited for there.
    Descriptor(Waits),
    /// A lock, or a condition.
    Lock,
    /// A time.
    Time,
    /// Another process.
    Child,
    /// Several descriptors; the argument of this index is a time in ms.
    Events(Option<usize>),
    /// Nothing of use.
    Other,
}

/// What is waited for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Something to read.
    Data,
    /// Somebody who takes what was written.
    Room,
    /// Somebody who connects.
    Client,
    /// An answer to a connect.
    Connection,
    /// Any of what is watched; the time is in argument 3.
    Events,
    /// The disk.
    Disk,
    /// A lock of a file.
    FileLock,
}

/// One call that may take long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    number: i64,
    /// Its name.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

macro_rules! calls {
    ($($(#[$on:meta])* $name:ident: $number:ident, $kind:expr;)+) => {
        &[$($(#[$on])* Call { number: libc::$number, name: stringify!($name), kind: $kind },)+]
    };
}

/// Calls in which programs are found.
const CALLS: &[Call] = calls! {
    read: SYS_read, Kind::Descriptor(Waits::Data);
    readv: SYS_readv, Kind::Descriptor(Waits::Data);
    pread64: SYS_pread64, Kind::Descriptor(Waits::Disk);
    preadv: SYS_preadv, Kind::Descriptor(Waits::Disk);
    recvfrom: SYS_recvfrom, Kind::Descriptor(Waits::Data);
    recvmsg: SYS_recvmsg, Kind::Descriptor(Waits::Data);
    recvmmsg: SYS_recvmmsg, Kind::Descriptor(Waits::Data);
    write: SYS_write, Kind::Descriptor(Waits::Room);
    writev: SYS_writev, Kind::Descriptor(Waits::Room);
    pwrite64: SYS_pwrite64, Kind::Descriptor(Waits::Disk);
    sendto: SYS_sendto, Kind::Descriptor(Waits::Room);
    sendmsg: SYS_sendmsg, Kind::Descriptor(Waits::Room);
    sendmmsg: SYS_sendmmsg, Kind::Descriptor(Waits::Room);
    sendfile: SYS_sendfile, Kind::Descriptor(Waits::Room);
    splice: SYS_splice, Kind::Descriptor(Waits::Data);
    accept: SYS_accept, Kind::Descriptor(Waits::Client);
    accept4: SYS_accept4, Kind::Descriptor(Waits::Client);
    connect: SYS_connect, Kind::Descriptor(Waits::Connection);
    fsync: SYS_fsync, Kind::Descriptor(Waits::Disk);
    fdatasync: SYS_fdatasync, Kind::Descriptor(Waits::Disk);
    sync_file_range: SYS_sync_file_range, Kind::Descriptor(Waits::Disk);
    ftruncate: SYS_ftruncate, Kind::Descriptor(Waits::Disk);
    fallocate: SYS_fallocate, Kind::Descriptor(Waits::Disk);
    getdents64: SYS_getdents64, Kind::Descriptor(Waits::Disk);
    fstat: SYS_fstat, Kind::Descriptor(Waits::Disk);
    close: SYS_close, Kind::Descriptor(Waits::Disk);
    flock: SYS_flock, Kind::Descriptor(Waits::FileLock);
    fcntl: SYS_fcntl, Kind::Descriptor(Waits::FileLock);
    ioctl: SYS_ioctl, Kind::Descriptor(Waits::Data);
    epoll_pwait: SYS_epoll_pwait, Kind::Descriptor(Waits::Events);
    epoll_pwait2: SYS_epoll_pwait2, Kind::Descriptor(Waits::Events);
    io_uring_enter: SYS_io_uring_enter, Kind::Descriptor(Waits::Events);
    io_getevents: SYS_io_getevents, Kind::Events(None);
    ppoll: SYS_ppoll, Kind::Events(None);
    pselect6: SYS_pselect6, Kind::Events(None);
    futex: SYS_futex, Kind::Lock;
    semop: SYS_semop, Kind::Lock;
    semtimedop: SYS_semtimedop, Kind::Lock;
    nanosleep: SYS_nanosleep, Kind::Time;
    clock_nanosleep: SYS_clock_nanosleep, Kind::Time;
    rt_sigtimedwait: SYS_rt_sigtimedwait, Kind::Events(None);
    rt_sigsuspend: SYS_rt_sigsuspend, Kind::Events(None);
    wait4: SYS_wait4, Kind::Child;
    waitid: SYS_waitid, Kind::Child;
    msgrcv: SYS_msgrcv, Kind::Events(None);
    msgsnd: SYS_msgsnd, Kind::Events(None);
    openat: SYS_openat, Kind::Other;
    newfstatat: SYS_newfstatat, Kind::Other;
    statx: SYS_statx, Kind::Other;
    unlinkat: SYS_unlinkat, Kind::Other;
    renameat2: SYS_renameat2, Kind::Other;
    mkdirat: SYS_mkdirat, Kind::Other;
    execve: SYS_execve, Kind::Other;
    mmap: SYS_mmap, Kind::Other;
    munmap: SYS_munmap, Kind::Other;
    mprotect: SYS_mprotect, Kind::Other;
    madvise: SYS_madvise, Kind::Other;
    msync: SYS_msync, Kind::Other;
    sync: SYS_sync, Kind::Other;
    umount2: SYS_umount2, Kind::Other;
    restart_syscall: SYS_restart_syscall, Kind::Other;
    #[cfg(target_arch = "x86_64")]
    epoll_wait: SYS_epoll_wait, Kind::Descriptor(Waits::Events);
    #[cfg(target_arch = "x86_64")]
    poll: SYS_poll, Kind::Events(Some(2));
    #[cfg(target_arch = "x86_64")]
    select: SYS_select, Kind::Events(None);
    #[cfg(target_arch = "x86_64")]
    pause: SYS_pause, Kind::Events(None);
    #[cfg(target_arch = "x86_64")]
    open: SYS_open, Kind::Other;
    #[cfg(target_arch = "x86_64")]
    stat: SYS_stat, Kind::Other;
    #[cfg(target_arch = "x86_64")]
    vfork: SYS_vfork, Kind::Child;
};

/// The call of this number.
pub(super) fn by_number(number: i64) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.number == number)
}

/// The call of this name.
pub(super) fn by_name(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.name == name)
}

/// A thread's call in words, from its line in `/proc`: `read(0 = pipe)`. What a descriptor is, the
/// caller knows. Empty = it is in none, or nobody may know.
pub(super) fn decode(line: &str, descriptor: impl FnOnce(i32) -> String) -> String {
    let mut fields = line.split_ascii_whitespace();
    let Some(number) = fields.next().and_then(|field| field.parse::<i64>().ok()) else {
        // "running".
        return String::new();
    };
    if number < 0 {
        // Not in a call, but asleep in the kernel all the same: a page fault.
        return String::new();
    }
    let arguments: Vec<u64> = fields
        .take(6)
        .map_while(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok())
        .collect();
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // Arguments of the width of an int come in the lower half of a register.
    let int = |index: usize| {
        let [a, b, c, d, ..] = argument(index).to_le_bytes();
        i32::from_le_bytes([a, b, c, d])
    };
    let Some(call) = by_number(number) else { return format!("system call {number}") };
    let time = |index| match int(index) {
        -1 => "no time limit".to_owned(),
        ms => format!("{ms} ms at most"),
    };
    let name = call.name;
    match call.kind {
        Kind::Descriptor(waits) => {
            let (number, with_time) = (int(0), name == "epoll_wait" || name == "epoll_pwait");
            let what = descriptor(number);
            let what = if what.is_empty() { what } else { format!(" = {what}") };
            match waits {
                Waits::Events if with_time => format!("{name}({number}{what}, {})", time(3)),
                _ => format!("{name}({number}{what})"),
            }
        }
        Kind::Lock => format!("{name}({:#x})", argument(0)),
        Kind::Child => format!("{name}(pid {})", int(usize::from(name == "waitid"))),
        Kind::Events(Some(index)) => format!("{name}({} descriptors, {})", int(1), time(index)),
        Kind::Time | Kind::Events(None) | Kind::Other => format!("{name}()"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_with_what_they_wait_on() {
        let pipe = |number: i32| if number == 3 { "pipe".to_owned() } else { String::new() };
        let line = |number: i64, rest: &str| format!("{number} {rest} 0x7ffd 0x7f00\n");
        for (line, expected) in [
            (line(libc::SYS_read, "0x3 0x55 0x1000 0x0 0x0 0x0"), "read(3 = pipe)"),
            (line(libc::SYS_recvfrom, "0x9 0x55 0x1000 0x0 0x0 0x0"), "recvfrom(9)"),
            (line(libc::SYS_futex, "0x7f10 0x80 0x2 0x0 0x0 0x0"), "futex(0x7f10)"),
            (line(libc::SYS_nanosleep, "0x1 0x2 0x0 0x0 0x0 0x0"), "nanosleep()"),
            (line(libc::SYS_wait4, "0xffffffff 0x2 0x0 0x0 0x0 0x0"), "wait4(pid -1)"),
            (
                line(libc::SYS_epoll_pwait, "0x3 0x2 0x0 0xffffffff 0x0 0x0"),
                "epoll_pwait(3 = pipe, no time limit)",
            ),
            (line(9999, "0x3"), "system call 9999"),
            ("running\n".to_owned(), ""),
            ("-1 0x7ffd 0x7f00".to_owned(), ""),
            (String::new(), ""),
            (format!("{} zz", libc::SYS_read), "read(0)"),
        ] {
            assert_eq!(decode(&line, pipe), expected, "{line}");
        }
    }

    #[test]
    fn every_call_stands_there_once() {
        for call in CALLS {
            assert_eq!(by_number(call.number).map(|found| found.name), Some(call.name));
            assert_eq!(by_name(call.name).map(|found| found.number), Some(call.number));
        }
    }
}
