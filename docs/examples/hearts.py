#!/usr/bin/env python3
"""Shows the hearts of an instance, and with --data the keys and values that its servers share:

    python3 docs/examples/hearts.py [DIR | --name NAME] [--watch] [--data]

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
HEADER_DATA_OFFSET = 80
HEADER_DATA_SIZE = 88
HEADER_CELL_SIZE = 96
HEADER_WATCHDOG_PID = 192
HEADER_WATCHDOG_HEART = 320
HEART_COUNT = 0
HEART_STAMP_NS = 8
SERVER_NAME = 0
SERVER_STATE = 40
SERVER_PID = 48
SERVER_GENERATION = 64
SERVER_BASELINE = 96
AREA_SEQUENCE = 0
TABLE_HEADER = 64  # Of the table in the data area, see docs/segment.md.
KEY_MAX = 64
PATIENCE = 10  # Seconds: a busy writer spoils thousands of copies before one meets a pause.

STATES = ["down", "starting", "up", "late", "stopping", "backoff", "held", "failed"]


def consistent_copy(shared, words):
    """The data as of one commit, its number, and how many tries a further commit spoiled."""
    control, size = words[HEADER_DATA_OFFSET // 8], words[HEADER_DATA_SIZE // 8]
    sequence = (control + AREA_SEQUENCE) // 8
    end, retries = time.monotonic() + PATIENCE, 0
    while time.monotonic() < end:
        before = words[sequence]
        good = control + 4096 + (before & 1) * size
        data = shared[good : good + size]
        # x86-64 loads in program order. Elsewhere an acquire fence belongs here: use C or Rust.
        if words[sequence] == before:
            return data, before, retries
        retries += 1
    raise ValueError(f"commits spoiled {retries} tries to copy the data: try again")


def show_data(shared, words):
    data, sequence, retries = consistent_copy(shared, words)
    print(f"data: sequence {sequence}, {retries} retries")
    cell_size = words[HEADER_CELL_SIZE // 8]
    cells = (len(data) - TABLE_HEADER) // (cell_size + 8)
    tags = memoryview(data)[TABLE_HEADER : TABLE_HEADER + 8 * cells].cast("Q")
    for cell in (cell for cell in range(cells) if tags[cell] != 0):
        at = TABLE_HEADER + 8 * cells + cell_size * cell
        key = at + 8
        value = key + min(int.from_bytes(data[at : at + 4], "little"), KEY_MAX)
        end = min(value + int.from_bytes(data[at + 4 : at + 8], "little"), at + cell_size)
        # Any bytes may be in there, and this goes to a terminal: \x1b and the like are escaped.
        print(f"{data[key:value]!r} = {data[value:end]!r}")


def show(path, with_data):
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    words = memoryview(shared).cast("Q")
    if len(shared) < 4096 or words[HEADER_MAGIC // 8] != int.from_bytes(b"OSPSSEG1", "little"):
        raise ValueError("not a segment of osps")
    if words[HEADER_VERSION // 8] != 5:
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
        server = words[HEADER_SLOTS_OFFSET // 8] + 4096 * slot
        name = shared[server + SERVER_NAME : server + SERVER_NAME + 32].split(b"\0")[0]
        # Any process of the instance may have scribbled here, and this goes to a terminal.
        name = "".join(c if c.isprintable() else "?" for c in name.decode(errors="replace"))
        pid = words[(server + SERVER_PID) // 8]
        generation = words[(server + SERVER_GENERATION) // 8]
        code = words[(server + SERVER_STATE) // 8]
        state = STATES[code] if code < len(STATES) else str(code)
        heart = words[HEADER_HEARTS_OFFSET // 8] + 64 * slot
        row(name, pid, generation, state, heart, words[(server + SERVER_BASELINE) // 8])
    if with_data:
        show_data(shared, words)


options = argparse.ArgumentParser(description="Shows the hearts of an osps instance.")
options.add_argument("run_dir", nargs="?", metavar="DIR", help="the run directory")
options.add_argument("--name", default="default", help="the instance, where no DIR is given")
options.add_argument("--watch", action="store_true", help="again every second")
options.add_argument("--data", action="store_true", help="the shared keys and values as well")
chosen = options.parse_args()
run_dir = chosen.run_dir or f"/dev/shm/osps-{os.getuid()}/{chosen.name}"
try:
    show(os.path.join(run_dir, "segment"), chosen.data)
    while chosen.watch:
        time.sleep(1)
        print()
        show(os.path.join(run_dir, "segment"), chosen.data)
except (OSError, ValueError, IndexError, TypeError) as error:
    sys.exit(f"hearts.py: {run_dir}: {error}")
except KeyboardInterrupt:
    pass
