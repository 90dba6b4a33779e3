"""Ctrl-C ends every call that blocks, though what the call waits for never happens, and nothing is lost by that."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import latent_worker as lw
from latent_worker import Build, Inbox, Master
from support import PATIENCE, Clean, Quick

HEAD = """
import os, sys, threading, time
import latent_worker as lw
from latent_worker import Build, Driver, Inbox, Master

class Quick(Driver):
    def start(self, start):
        start.attach()
    def stop(self, stop):
        pass

class Stuck(Quick):
    def stop(self, stop):
        time.sleep(1000)

def leased():
    master.add_local("w")
    return master.submit(Build("b")).wait()

def paused(driver=None):
    master.add("w", driver or Quick()).pause()
    return master.submit(Build("b"))

def stuck():
    global hangs
    hangs = True
    worker = master.add("w", Stuck())
    master.submit(Build("b")).wait().succeed()
    return worker

def blocked(call):
    print("blocked", flush=True)
    try:
        call()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        # A stop that hangs would delay the end, and so would what still waits for the fifo.
        hangs or master.shutdown(fast=True)
        os._exit(0)
    os._exit(1)

hangs = False
master = Master()
"""

# Every call that blocks, while it waits for what never happens.
CALLS = {
    "Ticket.wait": "blocked(paused().wait)",
    "Ticket.wait with a limit": "t = paused(); blocked(lambda: t.wait(1000))",
    "Inbox.take": "inbox = Inbox(); blocked(inbox.take)",
    "Inbox.next": "import asyncio; inbox = Inbox(); blocked(lambda: asyncio.run(inbox.next()))",
    "Events.take": "events = master.events(); blocked(events.take)",
    "iteration over Events": "events = master.events(); blocked(lambda: list(events))",
    "Lease.run": "lease = leased(); blocked(lambda: lease.run('exec sleep 1000'))",
    "Process.read": "lease = leased(); process = lease.start('exec sleep 1000'); blocked(process.read)",
    "iteration over a Process": "lease = leased(); process = lease.start('exec sleep 1000'); "
    "blocked(lambda: list(process))",
    "Lease.wait_end": "lease = leased(); blocked(lease.wait_end)",
    "Lease.put": "lease = leased(); os.mkfifo(sys.argv[1]); blocked(lambda: lease.put(sys.argv[1], 'there'))",
    "Lease.get": "lease = leased(); lease.run('echo > f'); os.mkfifo(sys.argv[1]); "
    "blocked(lambda: lease.get('f', sys.argv[1]))",
    "Worker.insubstantiate": "worker = stuck(); blocked(lambda: worker.insubstantiate(fast=True))",
    "Master.shutdown": "worker = stuck(); blocked(lambda: master.shutdown(fast=True))",
    "Master.close": "worker = stuck(); blocked(master.close)",
    "leaving a Master's with": "worker = stuck(); blocked(lambda: master.__exit__(None, None, None))",
}


class Interrupts(Clean):
    def test_every_call_that_blocks_is_interrupted(self):
        for name, program in CALLS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as here:
                child = subprocess.Popen(
                    [sys.executable, "-c", HEAD + program, os.path.join(here, "fifo")], stdout=subprocess.PIPE, text=True
                )
                watch = threading.Timer(PATIENCE, child.kill)
                with child:
                    try:
                        self.assertEqual(child.stdout.readline(), "blocked\n")
                        # It may not block yet: then the signal is handled before the call, or in it.
                        time.sleep(0.1)
                        child.send_signal(signal.SIGINT)
                        begun = time.monotonic()
                        watch.start()
                        self.assertEqual(child.stdout.readline(), "interrupted\n")
                        print(f"{name}: {(time.monotonic() - begun) * 1000:.0f} ms", file=sys.stderr)
                        self.assertEqual(child.wait(PATIENCE), 0)
                    finally:
                        watch.cancel()
                        child.kill()

    def caught_with_an_answer(self, call, happen):
        """Interrupts a call that gets its answer after the signal and before Python handles that."""

        def both():
            os.kill(os.getpid(), signal.SIGINT)
            happen()

        slice_before, lw._SLICE = lw._SLICE, PATIENCE
        timer = threading.Timer(0.1, both)
        timer.start()
        try:
            with self.assertRaises(KeyboardInterrupt):
                call()
        finally:
            lw._SLICE = slice_before
            timer.join()

    def test_what_arrives_during_an_interrupt_is_kept(self):
        with Master() as master:
            worker = master.add("w", Quick())
            worker.pause()
            ticket = master.submit(Build("b"))
            self.caught_with_an_answer(ticket.wait, worker.unpause)
            ticket.wait(0).succeed()
            worker.pause()
            ticket = master.submit(Build("b"))
            self.caught_with_an_answer(ticket.wait, ticket.cancel)
            with self.assertRaises(lw.Cancelled):
                ticket.wait(0)
            with Inbox() as inbox:
                build = master.submit_to(Build("b"), inbox)
                self.caught_with_an_answer(inbox.take, worker.unpause)
                number, lease = inbox.take(0)
                self.assertEqual(number, build)
                lease.succeed()
                worker.pause()
                build = master.submit_to(Build("b"), inbox)
                self.caught_with_an_answer(inbox.take, lambda: master.cancel(build))
                number, error = inbox.take(0)
                self.assertEqual((number, type(error)), (build, lw.Cancelled))
            with master.events() as events:
                self.caught_with_an_answer(events.take, worker.unpause)
                self.assertEqual(events.take(0).kind, "unpaused")

    def test_output_that_arrives_during_an_interrupt_is_kept(self):
        with Master() as master:
            master.add_local("w")
            with tempfile.TemporaryDirectory() as here, master.submit(Build("b")).wait(PATIENCE) as lease:
                go = os.path.join(here, "go")
                with lease.start(f"until [ -e {go} ]; do sleep 0.01; done; echo hello") as process:
                    self.caught_with_an_answer(process.read, lambda: os.mkdir(go))
                    self.assertEqual(process.read(0).data, b"hello\n")
                    self.assertTrue(process.read(PATIENCE).end.success)

    def test_what_is_kept_is_freed_with_its_ticket(self):
        with Master() as master:
            worker = master.add("w", Quick())
            worker.pause()
            with master.submit(Build("b")) as ticket:
                self.caught_with_an_answer(ticket.wait, worker.unpause)
            # Its place is free again.
            master.submit(Build("b")).wait(PATIENCE).succeed()

    def test_an_interrupted_call_can_be_repeated(self):
        with Master() as master:
            worker = master.add("w", Quick())
            worker.pause()
            ticket = master.submit(Build("b"))
            timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
            timer.start()
            with self.assertRaises(KeyboardInterrupt):
                ticket.wait()
            worker.unpause()
            ticket.wait(PATIENCE).succeed()

    def test_close_can_be_repeated(self):
        gate = threading.Event()

        class Slow(Quick):
            def stop(self, stop):
                gate.wait(PATIENCE)
                super().stop(stop)

        master = Master()
        master.add("w", Slow())
        master.submit(Build("b")).wait(PATIENCE).succeed()
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with self.assertRaises(KeyboardInterrupt):
            master.close()
        self.assertFalse(master.closed)
        gate.set()
        master.close()
        self.assertTrue(master.closed)


if __name__ == "__main__":
    unittest.main()
