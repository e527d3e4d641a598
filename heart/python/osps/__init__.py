"""A heart for programs that osps supervises:

    import osps

    with osps.Heart.from_env() as heart:  # Started by: osps run -- python3 program.py
        while not heart.should_stop():
            one_turn_of_work()  # Shorter than the hang timeout; else beat within it, too.
            heart.beat()

Beat from the loop that does the work, never from a helper thread: a beat must prove that the loop
still turns. For asyncio there is osps.asyncio.beat, for stacks of all threads on request dumps.

The rules are those of osps_heart::Heart in Rust, and the words are told in docs/segment.md.
"""

import faulthandler
import fcntl
import mmap
import os
import signal
import time

from . import _layout as at
from ._orphan import Orphan

__all__ = ["Heart", "HeartError", "dumps"]

_PARKED = 2**64 - 1
# Of Linux; the module mmap does not name it.
_MADV_WIPEONFORK = 18


class HeartError(Exception):
    """Why there is no heart."""


class Heart:
    """A program's heart: beat it once per turn of the loop that does the work. One thread uses it.

    In a forked child, and once another process runs in the slot, nothing happens any more."""

    def __init__(self, run_dir, slot, generation, name=None, limit=0.0):
        self._words = None
        self._slot, self._generation, self._line = slot, generation, None
        path = os.path.join(run_dir, "segment")
        # A word that is 1 in this process and 0 in its children.
        self._mine = mmap.mmap(-1, at.PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            self._mine.madvise(_MADV_WIPEONFORK)
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise HeartError(f"{path}: {error.strerror}") from error
        self._mine[0] = 1
        try:
            self._attach(path, file)
            # Python has no compare-exchange, so a file lock keeps other Pythons out. A program in
            # another language that claims this very line at this very moment is not seen.
            fcntl.flock(file, fcntl.LOCK_EX)
            self._claim(name, limit)
        except BaseException:
            self._detach()
            raise
        finally:
            # Said, since a child that was forked meanwhile has the descriptor, too.
            fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    @classmethod
    def from_env(cls):
        """The heart of a program that osps started. From now on no other process of the program can
        open it, so that no child beats in its parent's name."""
        return cls(*_environment())

    @classmethod
    def named(cls, name, limit=0.0):
        """A further heart of this program, for a thread with a loop of its own: judged from its
        first beat on, by its own limit in seconds (0.02 to 30 days; 0 = the hang timeout). Verdicts
        name it. close() gives it back."""
        return cls(*_environment(), name, limit)

    def _attach(self, path, file):
        size = os.fstat(file).st_size
        if size < at.PAGE:
            raise HeartError(f"{path}: too short for a segment")
        with mmap.mmap(file, at.PAGE, access=mmap.ACCESS_READ) as header:
            # One item of such a view is one aligned load or store. (struct goes byte by byte.)
            with memoryview(header).cast("Q") as words:
                if header[at.HEADER_MAGIC : at.HEADER_MAGIC + 8] != at.MAGIC.encode():
                    raise HeartError(f"{path}: not a segment of osps")
                version = words[at.HEADER_VERSION // 8]
                if version != at.VERSION:
                    raise HeartError(f"{path}: layout version {version} instead of {at.VERSION}")
                self._hearts = words[at.HEADER_HEARTS_OFFSET // 8]
                self._lines = words[at.HEADER_HEARTS_COUNT // 8]
                self._slots = words[at.HEADER_SLOTS_COUNT // 8]
                pages = words[at.HEADER_SLOTS_OFFSET // 8]
        ends = self._hearts + at.HEART_SIZE * self._lines, pages + at.PAGE * self._slots
        if max(ends) > size or (self._hearts | pages) % at.PAGE or self._slots > self._lines:
            raise HeartError(f"{path}: damaged")
        if not 0 <= self._slot < self._slots:
            raise HeartError(f"{path}: there is no slot {self._slot}")
        # The data area is not mapped. Unlike in Rust and C, children inherit the mapping: they
        # would unmap its place at their end, whatever lay there by then. They never store there.
        self._map = mmap.mmap(file, max(ends))
        self._words = memoryview(self._map).cast("Q")
        self._server = pages + at.PAGE * self._slot
        if self._get(self._server + at.SERVER_GENERATION) != self._generation:
            raise HeartError(f"generation {self._generation} of this slot was replaced")
        #: The longest time between two beats that this program promises, in seconds.
        self.beat_interval = self._get(at.HEADER_BEAT_INTERVAL_NS) / 1e9
        self._orphan = Orphan(
            self._get(at.HEADER_ORPHAN_TIMEOUT_NS),
            time.monotonic_ns(),
            self._get(at.HEADER_WATCHDOG_HEART + at.HEART_COUNT),
        )

    def _claim(self, name, limit):
        generation = self._generation & 0xFFFF
        self._own = (
            self._slot + 1
            | generation << 8
            | (os.getpid() & 0x3FFFFF) << 24
            | (_start_time() & 0x3FFFF) << 46
        )
        if name is not None:
            for number in range(self._slots, self._lines):
                line = self._hearts + at.HEART_SIZE * number
                if self._get(line + at.HEART_CLAIM) == 0:
                    self._set(line + at.HEART_CLAIM, self._own)
                    # What a predecessor's line says is not ours. Not judged before its first beat.
                    self._set(line + at.HEART_LIMIT_NS, min(int(limit * 1e9), _PARKED))
                    self._set_text(line + at.HEART_NAME, at.HEART_NAME_SIZE, name)
                    self._line, self._further = line, True
                    return
            raise HeartError(f"all {self._lines} heart lines are taken; close one")
        line = self._hearts + at.HEART_SIZE * self._slot
        found = self._get(line + at.HEART_CLAIM)
        # A claim under an earlier generation gives way. The 16 bits wrap.
        later = (generation - (found >> 8)) & 0xFFFF
        pid = found >> 24 & 0x3FFFFF
        is_ours = found & 0xFF == self._slot + 1
        if found != self._own and pid and is_ours and not 1 <= later < 0x8000:
            if later:
                raise HeartError(f"generation {self._generation} of this slot was replaced")
            raise HeartError(
                f"taken by pid {pid}: a heart has one owner, the first process that opens it; do "
                "not beat here, or let this process open it first"
            )
        self._set(line + at.HEART_CLAIM, self._own)
        self._line, self._further = line, False

    def _get(self, offset):
        return self._words[offset // 8]

    def _set(self, offset, value):
        self._words[offset // 8] = value

    def _set_text(self, offset, room, text):
        # Cut at a character, filled up with zeros.
        raw = text.encode(errors="replace")[:room].decode(errors="ignore").encode()
        raw = raw.ljust(room, b"\0")
        for start in range(0, room, 8):
            self._set(offset + start, int.from_bytes(raw[start : start + 8], "little"))

    def _is_open(self):
        return self._words is not None and self._mine[0] == 1

    def _is_current(self):
        generation = self._server + at.SERVER_GENERATION
        return self._is_open() and self._get(generation) == self._generation

    def _beat(self, stamp):
        if self._is_current():
            # The stamp first: whoever sees the new count shall find its stamp.
            self._set(self._line + at.HEART_STAMP_NS, stamp)
            count = self._line + at.HEART_COUNT
            self._set(count, (self._get(count) + 1) % 2**64)

    def beat(self):
        """Beats."""
        self._beat(time.monotonic_ns())

    def park(self):
        """Says that this loop waits for work: its silence means nothing until the next beat."""
        self._beat(_PARKED)

    def activity(self, text):
        """Says what the program does, at most 96 bytes: `osps status` shows it."""
        if self._is_current():
            activity = self._server + at.SLOT_ACTIVITY
            # Odd while it is being written; a predecessor that died inside left it so.
            busy = self._get(activity + at.ACTIVITY_TEXT_GUARD) | 1
            self._set(activity + at.ACTIVITY_TEXT_GUARD, busy)
            self._set_text(activity + at.ACTIVITY_TEXT, at.ACTIVITY_TEXT_SIZE, text)
            self._set(activity + at.ACTIVITY_TEXT_GUARD, (busy + 1) % 2**64)

    def should_stop(self):
        """Whether to finish and exit: osps said so, another process runs in this slot, or osps has
        been gone for the orphan timeout. Look at it once per turn, like beating."""
        if not self._is_current():
            return True
        # Who looks is not sent a signal at once.
        self._set(self._server + at.SLOT_ACTIVITY + at.ACTIVITY_HEEDS, self._generation)
        if self._get(self._server + at.SERVER_DESIRED) == at.DESIRED_STOP:
            return True
        watchdog = at.HEADER_WATCHDOG_HEART
        count, stamp = self._get(watchdog + at.HEART_COUNT), self._get(watchdog + at.HEART_STAMP_NS)
        return self._orphan.look(time.monotonic_ns(), count, stamp)

    def close(self):
        """Gives a further heart back, unjudged. The program's own stays taken: osps frees it when
        this process ends."""
        if self._is_open():
            if self._line is not None and self._further:
                self.park()
                if self._get(self._line + at.HEART_CLAIM) == self._own:
                    self._set(self._line + at.HEART_CLAIM, 0)
            self._detach()

    def _detach(self):
        if self._words is not None:
            self._words.release()
            self._words = None
            self._map.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _environment():
    def number(name):
        text = variable(name)
        if not (text.isascii() and text.isdigit()):
            raise HeartError(f"{name} is {text!r}, not a number of osps's")
        return int(text)

    def variable(name):
        if name not in os.environ:
            raise HeartError(
                f"not started by osps ({name} is not set); start it with `osps run -- COMMAND`"
            )
        return os.environ[name]

    return variable(at.ENV_RUN_DIR), number(at.ENV_SLOT), number(at.ENV_GENERATION)


def _start_time():
    """When this process started, in clock ticks since boot; 0 = /proc does not say."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            # The command's name stands in parentheses and may hold anything.
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def dumps(number=signal.SIGRTMAX):
    """From now on each `kill -s RTMAX PID` (-64 in words of a number) appends the stacks of all
    threads to the file stacks-SLOT in the run directory, also from within a frozen thread. Returns
    its path; osps removes it with the run directory.

    SIGRTMAX, since no program and no library uses it; a signal that has a handler is refused."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        raise HeartError(f"signal {int(number)} has another use in this program; choose another")
    run_dir, slot, _ = _environment()
    path = os.path.join(run_dir, f"stacks-{slot}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        file = os.open(path, flags, 0o600)
    except OSError as error:
        raise HeartError(f"{path}: {error.strerror}") from error
    # The descriptor stays open: a handler cannot open files.
    faulthandler.register(number, file=file, all_threads=True)
    return path
