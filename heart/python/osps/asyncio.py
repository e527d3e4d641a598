"""Hearts of event loops."""

import asyncio

from . import Heart


def beat(heart=None, on_stop=None):
    """From now on the running event loop beats, from a timer of its own: a callback that does not
    return is a freeze. Returns the heart, by default the program's own.

    `on_stop` is called once, in the loop, when the program is to finish and exit; without it a stop
    is the stop signal (TERM), as for a program that does not know osps."""
    loop = asyncio.get_running_loop()
    heart = heart if heart is not None else Heart.from_env()
    # Half of what is promised leaves the other half for callbacks that take their time.
    pause = heart.beat_interval / 2

    def turn():
        nonlocal on_stop
        heart.beat()
        loop.call_later(pause, turn)
        if on_stop is not None and heart.should_stop():
            told, on_stop = on_stop, None
            told()

    turn()
    return heart
