//! Standard output and standard error that never block the one who writes.
//!
//! A terminal stopped with Ctrl-S, or a pipe that nobody reads, blocks every `write` on it. So
//! lines go into a bounded queue, one writer thread per stream; what does not fit is dropped and
//! counted, and the count is told in the stream as soon as it moves again. Errors are ignored:
//! a closed stdout is no reason to stop supervising.

use std::io::{self, IoSlice, Write};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use osps_heart::sync::{Ordering, Word};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::raw;

/// Lines kept for a reader that is slow: a crash loop writes some five lines a restart.
const QUEUE: usize = 512;
/// How long the end of the process waits for a stream to take its last lines.
const FLUSH_TIME: Duration = Duration::from_millis(300);

enum Job {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// One of the two streams.
#[derive(Clone)]
pub struct Output {
    queue: SyncSender<Job>,
    dropped: Arc<Word>,
    /// Lines queued and not yet written.
    pending: Arc<Word>,
    stream: fn() -> BorrowedFd<'static>,
    /// No thread could be had: written by the caller, as far as the stream takes it.
    direct: bool,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

/// Standard output.
pub fn stdout() -> &'static Output {
    static OUTPUT: OnceLock<Output> = OnceLock::new();
    OUTPUT.get_or_init(|| Output::start("stdout", rustix::stdio::stdout))
}

/// Writes to standard output and waits for its reader: for commands whose purpose is what they
/// print. `false` = the reader is gone.
pub fn print(bytes: &[u8]) -> bool {
    io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()).is_ok()
}

/// Waits for so long, while standard output has a reader; `false` = it has none any more.
pub fn stdout_is_read(span: Duration) -> bool {
    let stdout = rustix::stdio::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let span = Timespec::try_from(span).ok();
    // A reader that is gone is an event even if none is asked for; so is a wait that was cut short.
    !poll(&mut fds, span.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Standard error.
pub fn stderr() -> &'static Output {
    static OUTPUT: OnceLock<Output> = OnceLock::new();
    OUTPUT.get_or_init(|| Output::start("stderr", rustix::stdio::stderr))
}

impl Output {
    fn start(name: &'static str, stream: fn() -> BorrowedFd<'static>) -> Output {
        let (queue, jobs) = sync_channel(QUEUE);
        let dropped = Arc::new(Word::new(0));
        let pending = Arc::new(Word::new(0));
        let (told, left) = (Arc::clone(&dropped), Arc::clone(&pending));
        // A thread inherits the signal mask: with one that lets a stop signal through, the kernel
        // would deliver it there and end the process, whatever the main thread blocks.
        let mask = raw::mask_signals(u64::MAX);
        // Small stack: the thread only moves bytes.
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(64 << 10)
            .spawn(move || run(stream(), &jobs, &told, &left));
        let direct = thread.is_err();
        if let Ok(mask) = mask {
            let _ = raw::mask_signals(mask);
        }
        Output { queue, dropped, pending, stream, direct }
    }

    /// Writes bytes that end in a line end, or queues them, or drops them.
    pub fn put(&self, line: &[u8]) {
        // Where the kernel knows how to write without waiting (pipes and some files), and nothing
        // is queued before us, no thread has to wake up for it.
        let mut rest = line;
        if self.pending.load(Ordering::Acquire) == 0 {
            let flags = ReadWriteFlags::NOWAIT;
            let at_end = u64::MAX;
            if let Ok(written) = pwritev2((self.stream)(), &[IoSlice::new(line)], at_end, flags) {
                rest = &line[written.min(line.len())..];
            }
        }
        if rest.is_empty() {
            return;
        }
        if self.direct {
            if !write_ready((self.stream)(), rest) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        self.pending.fetch_add(1, Ordering::Release);
        match self.queue.try_send(Job::Line(rest.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.pending.fetch_sub(1, Ordering::Release);
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits, for a bounded time, until what was queued is written.
    pub fn flush_bounded(&self) {
        let (done, finished) = sync_channel(1);
        if self.queue.try_send(Job::Flush(done)).is_ok() {
            match finished.recv_timeout(FLUSH_TIME) {
                Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }
}

/// For `env_logger`: one call per log line.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run(stream: BorrowedFd<'_>, jobs: &Receiver<Job>, dropped: &Word, pending: &Word) {
    let mut told = 0;
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Line(line) => {
                let total = dropped.load(Ordering::Relaxed);
                if total > told {
                    let note = format!("({} lines dropped: nobody read them)\n", total - told);
                    write_all(stream, note.as_bytes());
                    told = total;
                }
                write_all(stream, &line);
                pending.fetch_sub(1, Ordering::Release);
            }
            Job::Flush(done) => drop(done.send(())),
        }
    }
}

/// Writes a line to a stream that says it would take it; a pipe that says so takes 4 KiB at once.
/// `false` = it would not.
fn write_ready(stream: BorrowedFd<'_>, line: &[u8]) -> bool {
    let ready = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(&stream, PollFlags::OUT)];
    let takes = poll(&mut fds, Some(&ready)).is_ok_and(|count| count > 0)
        && fds[0].revents().contains(PollFlags::OUT);
    takes && rustix::io::write(stream, &line[..line.len().min(4096)]).is_ok()
}

/// Writes all of it, or as much as the stream takes before it fails. May block: this thread may.
fn write_all(stream: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(stream, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&stream, PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}
