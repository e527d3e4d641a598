"""For gunicorn: a worker that sleeps on request, and loses its way sooner than its master does."""

import time


def app(environ, start_response):
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(1000)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"well"]
