"""What the tests share: a bound for every wait, a look at what was not freed, a driver whose instances need nothing."""

import ctypes
import gc
import threading
import time
import unittest

import latent_worker as lw
from latent_worker import Driver

PATIENCE = 60.0


def held():
    """The handles, and the texts and structures, that the library still has out; and the drivers that it may call."""
    handles, given = ctypes.c_size_t(), ctypes.c_size_t()
    lw._library.lw_live(ctypes.byref(handles), ctypes.byref(given))
    return handles.value, given.value, len(lw._Table._kept)


class Clean(unittest.TestCase):
    """Tests after which nothing is held."""

    def tearDown(self):
        deadline = time.monotonic() + PATIENCE
        while held() != (0, 0, 0) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        self.assertEqual((held(), lw._Handle._live), ((0, 0, 0), {}))


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
