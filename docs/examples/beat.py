#!/usr/bin/env python3
"""A program with a heart:  osps run -- python3 docs/examples/beat.py [--hang-after SECONDS]

It beats once per turn of its main loop and leaves when it is asked to. With --hang-after it stops
turning after that time, so that one can watch osps notice and replace it. The package is installed
by `pip install ./heart/python`, or found there with PYTHONPATH=heart/python.
"""

import argparse
import sys
import time

import osps

options = argparse.ArgumentParser(description="A program that beats for osps.")
options.add_argument("--hang-after", type=float, metavar="SECONDS", default=float("inf"))
hang_after = options.parse_args().hang_after
try:
    heart = osps.Heart.from_env()
except osps.HeartError as why:
    print(f"beat.py: {why}", file=sys.stderr)
    sys.exit(2)
started = time.monotonic()
while not heart.should_stop():
    # The work of one turn; if it takes long, beat within it, too. Half the interval leaves the
    # other half for waking up late.
    time.sleep(heart.beat_interval / 2)
    while time.monotonic() - started >= hang_after:
        pass
    heart.beat()
print("asked to stop", flush=True)
