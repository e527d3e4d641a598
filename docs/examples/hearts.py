#!/usr/bin/env python3
"""Shows the hearts of an instance:  python3 docs/examples/hearts.py [DIR | --name NAME] [--watch]

It only reads, so it works beside a frozen watchdog and after a dead one just as well.
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
HEADER_WATCHDOG_PID = 192
HEADER_WATCHDOG_HEART = 320
HEART_COUNT = 0
HEART_STAMP_NS = 8
RECORD_NAME = 0
RECORD_STATE = 40
RECORD_PID = 48
RECORD_GENERATION = 64
RECORD_BASELINE = 96

STATES = ["down", "starting", "up", "late", "stopping", "backoff", "held", "failed"]


def show(path):
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    words = memoryview(shared).cast("Q")
    if len(shared) < 4096 or words[HEADER_MAGIC // 8] != int.from_bytes(b"OSPSSEG1", "little"):
        raise ValueError("not a segment of osps")
    if words[HEADER_VERSION // 8] != 1:
        raise ValueError("half-made, or of a layout version that this program does not know")

    def row(name, pid, generation, state, heart, baseline):
        # The count first: its stamp is then of that beat or of a later one.
        count, stamp = words[(heart + HEART_COUNT) // 8], words[(heart + HEART_STAMP_NS) // 8]
        # A count at its baseline is the predecessor's, so this process has not beaten yet.
        known = pid and stamp and count != baseline
        age = f"{(time.monotonic_ns() - stamp) / 1e6:.0f} ms" if known else "-"
        print(f"{name:<16}{pid or '-':>9}{generation:>7}  {state:<10}{count:>10}{age:>14}")

    print(f"{'name':<16}{'pid':>9}{'gen':>7}  {'state':<10}{'beats':>10}{'last beat':>14}")
    row("watchdog", words[HEADER_WATCHDOG_PID // 8], "-", "-", HEADER_WATCHDOG_HEART, 0)
    for slot in range(min(words[HEADER_SLOTS_COUNT // 8], 33)):
        record = words[HEADER_SLOTS_OFFSET // 8] + 4096 * slot
        name = shared[record + RECORD_NAME : record + RECORD_NAME + 32].split(b"\0")[0]
        # Any process of the instance may have scribbled here, and this goes to a terminal.
        name = "".join(c if c.isprintable() else "?" for c in name.decode(errors="replace"))
        pid = words[(record + RECORD_PID) // 8]
        generation = words[(record + RECORD_GENERATION) // 8]
        code = words[(record + RECORD_STATE) // 8]
        state = STATES[code] if code < len(STATES) else str(code)
        heart = words[HEADER_HEARTS_OFFSET // 8] + 64 * slot
        row(name, pid, generation, state, heart, words[(record + RECORD_BASELINE) // 8])


options = argparse.ArgumentParser(description="Shows the hearts of an osps instance.")
options.add_argument("run_dir", nargs="?", metavar="DIR", help="the run directory")
options.add_argument("--name", default="default", help="the instance, where no DIR is given")
options.add_argument("--watch", action="store_true", help="again every second")
chosen = options.parse_args()
run_dir = chosen.run_dir or f"/dev/shm/osps-{os.getuid()}/{chosen.name}"
try:
    show(os.path.join(run_dir, "segment"))
    while chosen.watch:
        time.sleep(1)
        print()
        show(os.path.join(run_dir, "segment"))
except (OSError, ValueError, IndexError, TypeError) as error:
    sys.exit(f"hearts.py: {run_dir}: {error}")
except KeyboardInterrupt:
    pass
