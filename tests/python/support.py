"""What the tests share: a bound for every wait, and a driver whose instances need nothing."""

import threading

from latent_worker import Driver

PATIENCE = 60.0


class Quick(Driver):
    """Attaches at once, and counts."""

    def __init__(self):
        self.lock = threading.Lock()
        self.started = self.stopped = 0
        self.live = set()

    def start(self, start):
        with self.lock:
            self.started += 1
            self.live.add(start.key)
        start.attach()
        return start.key

    def stop(self, stop):
        with self.lock:
            self.stopped += 1
            self.live.discard(stop.key)
            assert not stop.has_instance or stop.instance == stop.key
