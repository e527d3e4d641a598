"""Who watches the watchdog: each program, as heart/src/orphan.rs does it."""


class Orphan:
    """What a program knows of its watchdog's heart. Times in nanoseconds."""

    def __init__(self, timeout, now, count):
        self.timeout, self.count, self.renewals = timeout, count, 0
        self.looked = self.last_beat = self.counted_from = now

    def look(self, now, count, stamp):
        """Whether the watchdog has been silent for the orphan timeout. A look that comes late
        renews the limit, five times in one silence: this program may have been stopped itself."""
        slack = min(max(self.timeout // 8, 50_000_000), 500_000_000)
        previous, self.looked = self.looked, now
        late = now - previous > 1_000_000_000 + slack
        if count != self.count:
            trusted = max(previous - slack, 0) < stamp <= now
            beat = max(stamp, self.last_beat) if trusted else now
            self.count, self.last_beat, self.renewals = count, beat, int(late)
            earliest = now - self.timeout // 5 * 3
            self.counted_from = now if late else max(beat, earliest, self.counted_from)
            return False
        if late and self.renewals < 5:
            self.renewals += 1
            self.counted_from = now
            return False
        return now >= self.counted_from + self.timeout
