#!/usr/bin/env python3
"""A program with a heart:  osps run -- python3 docs/examples/beat.py [--hang-after SECONDS]

It beats once per turn of its main loop and leaves when it is asked to. With --hang-after it stops
turning after that time, so that one can watch osps notice and replace it.
"""

import argparse
import mmap
import os
import sys
import time

# Offsets in bytes, from the tables in docs/segment.md.
HEADER_MAGIC = 0
HEADER_VERSION = 8
HEADER_HEARTS_OFFSET = 24
HEADER_SLOTS_OFFSET = 40
HEADER_SLOTS_COUNT = 48
HEADER_BEAT_INTERVAL_NS = 240
HEART_COUNT = 0
HEART_STAMP_NS = 8
HEART_CLAIM = 24
SERVER_GENERATION = 64
SERVER_DESIRED = 72
ACTIVITY_HEEDS = 2048 + 144  # From the start of the slot page.

STOP = 1


def refuse(reason):
    print(f"beat.py: {reason}", file=sys.stderr)
    sys.exit(2)


options = argparse.ArgumentParser(description="A program that beats for osps.")
options.add_argument("--hang-after", type=float, metavar="SECONDS", default=float("inf"))
hang_after = options.parse_args().hang_after

try:
    path = os.path.join(os.environ["OSPS_RUN_DIR"], "segment")
    slot, generation = int(os.environ["OSPS_SLOT"]), int(os.environ["OSPS_GENERATION"])
    with open(path, "r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
except KeyError as missing:
    refuse(f"not started by osps, {missing} is not set; try: osps run -- python3 beat.py")
except (OSError, ValueError) as error:
    refuse(f"cannot map the segment: {error}")

# osps confirms the death of this process only, so no child of it may keep the memory.
shared.madvise(mmap.MADV_DONTFORK)
# One item of this view is one aligned 8-byte load or store. (struct's "<Q" goes byte by byte.)
words = memoryview(shared).cast("Q")

if len(shared) < 4096 or words[HEADER_MAGIC // 8] != int.from_bytes(b"OSPSSEG1", "little"):
    refuse(f"{path} is not a segment of osps")
if words[HEADER_VERSION // 8] != 3:
    refuse(f"layout version {words[HEADER_VERSION // 8]}, this program knows version 3")
if not 0 <= slot < words[HEADER_SLOTS_COUNT // 8]:
    refuse(f"there is no slot {slot}")
heart = words[HEADER_HEARTS_OFFSET // 8] + 64 * slot
server = words[HEADER_SLOTS_OFFSET // 8] + 4096 * slot
interval_ns = words[HEADER_BEAT_INTERVAL_NS // 8]
if words[(server + SERVER_GENERATION) // 8] != generation:
    refuse(f"slot {slot} belongs to another process than generation {generation}")


def own_claim():
    """Slot + 1, generation, pid and start time of this process, see docs/segment.md."""
    with open("/proc/self/stat") as stat:
        start_time = int(stat.read().rpartition(")")[2].split()[19])
    return slot + 1 | (generation & 0xFFFF) << 8 | os.getpid() << 24 | (start_time & 0x3FFFF) << 46


# The first process of a generation owns the heart: a child that runs this program must not beat in
# its parent's name. (Python has no compare-exchange. Two that came at the same moment would both
# think they were first; the child of a program comes later.)
claim = words[(heart + HEART_CLAIM) // 8]
owner, owner_generation = claim >> 24 & 0x3FFFFF, claim >> 8 & 0xFFFF
if owner and owner_generation == generation & 0xFFFF and claim != own_claim():
    refuse(f"the heart of slot {slot} is taken by pid {owner}")
words[(heart + HEART_CLAIM) // 8] = own_claim()

# It looks at its desired word, so a stop need not begin with a signal.
words[(server + ACTIVITY_HEEDS) // 8] = generation

print(f"beating in slot {slot}, at least every {interval_ns / 1e6:.0f} ms", flush=True)
started = time.monotonic()
while words[(server + SERVER_DESIRED) // 8] != STOP:
    if words[(server + SERVER_GENERATION) // 8] != generation:
        refuse("replaced: another process runs in this slot")
    # The stamp first: whoever sees the new count shall find its stamp.
    words[(heart + HEART_STAMP_NS) // 8] = time.monotonic_ns()
    words[(heart + HEART_COUNT) // 8] = (words[(heart + HEART_COUNT) // 8] + 1) % 2**64
    # The work of one turn comes here; if it takes long, beat in between. Half the interval leaves
    # the other half for waking up late.
    time.sleep(interval_ns / 2e9)
    while time.monotonic() - started >= hang_after:
        pass
print("asked to stop", flush=True)
