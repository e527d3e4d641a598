"""For gunicorn: a worker that sleeps on request.

Its master waits for events, too, and may come first. So workers, which import this, have a name of
their own; with the module setproctitle they have one anyhow."""

import ctypes
import time

PR_SET_NAME = 15
ctypes.CDLL(None).prctl(PR_SET_NAME, b"worker", 0, 0, 0)


def app(environ, start_response):
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(1000)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"well"]
