"""The binding as it should be used, and what it does when things go wrong."""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import latent_worker as lw
from latent_worker import Build, Driver, Master

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


class Life(unittest.TestCase):
    def test_a_build_runs_commands_and_reads_their_output(self):
        with Master() as master:
            master.add_local("w", labels=["shell"])
            ticket = master.submit(Build("b", {"a": "é"}, labels=["shell"]))
            with ticket.wait(PATIENCE) as lease:
                self.assertEqual((lease.worker, lease.build), ("w", ticket.build))
                done = lease.run("read line; echo $line $X; echo no >&2; exit 3", env={"X": "y"}, input=b"in\n")
                self.assertEqual((done.out, done.err, done.code, done.success), (b"in y\n", b"no\n", 3, False))
                self.assertTrue(lease.run(["true"]).success)
                outputs = list(lease.start(["printf", "x%.0s", "1", "2"]))
                self.assertEqual(b"".join(output.data for output in outputs if output.stream == "out"), b"xx")
                self.assertTrue(outputs[-1].end.success)
                slow = lease.start("exec sleep 1000")
                with self.assertRaises(lw.TimedOut):
                    slow.read(0.01)
                slow.interrupt()
                self.assertEqual([output.end.exit for output in slow][-1], lw.Exit.INTERRUPTED)
                with self.assertRaises(lw.Ended):
                    slow.read(0)
                self.assertEqual(lease.run("sleep 1000", time_limit=0.1).exit, lw.Exit.TIME_LIMIT)
            self.assertTrue(lease.closed)
            with self.assertRaises(lw.Error):
                lease.run("true")

    def test_files_go_there_and_come_back(self):
        with Master() as master, tempfile.TemporaryDirectory() as here:
            master.add_local("w")
            local, back = os.path.join(here, "a"), os.path.join(here, "b")
            with open(local, "wb") as file:
                file.write(b"\0bytes\n")
            with master.submit(Build("b")).wait(PATIENCE) as lease:
                lease.put(local, "there")
                lease.get("there", back)
                with open(back, "rb") as file:
                    self.assertEqual(file.read(), b"\0bytes\n")
                with self.assertRaises(lw.Error) as caught:
                    lease.get("nothing", back)
                self.assertIn("nothing", str(caught.exception))

    def test_an_exception_in_the_work_fails_the_build(self):
        with Master() as master:
            events = master.events()
            master.add("w", Quick())
            with self.assertRaises(ZeroDivisionError):
                with master.submit(Build("b")).wait(PATIENCE):
                    1 / 0
            finished = next(event for event in events if event.kind == "build_finished")
            self.assertIn("ZeroDivisionError: division by zero", str(finished))

    def test_waiting_ends_and_cancelling_answers(self):
        with Master() as master:
            worker = master.add("w", Quick())
            worker.pause()
            ticket = master.submit(Build("b"))
            with self.assertRaises(lw.TimedOut):
                ticket.wait(0)
            with self.assertRaises(TimeoutError):
                ticket.wait(0.01)
            self.assertEqual(master.build_status(ticket.build)["id"], ticket.build)
            threading.Timer(0.05, ticket.cancel).start()
            with self.assertRaises(lw.Cancelled):
                ticket.wait(PATIENCE)
            with self.assertRaises(lw.BuildFailed) as caught:
                master.submit(Build("b", labels=["nobody"])).wait(PATIENCE)
            self.assertIn("nobody", str(caught.exception))

    def test_a_lease_that_is_retried_is_followed_by_another(self):
        with Master() as master:
            master.add("w", Quick())
            ticket = master.submit(Build("b"))
            ticket.wait(PATIENCE).retry("once more")
            ticket.wait(PATIENCE).succeed()
            with self.assertRaises(lw.Ended):
                ticket.wait(PATIENCE)

    def test_a_lease_ends_when_its_instance_is_stopped(self):
        with Master() as master:
            worker = master.add_local("w")
            lease = master.submit(Build("b")).wait(PATIENCE)
            with self.assertRaises(lw.TimedOut):
                lease.wait_end(0)
            worker.insubstantiate(fast=True, timeout=PATIENCE)
            with self.assertRaises(lw.LeaseEnded):
                lease.wait_end(PATIENCE)
            lease.close()
            self.assertEqual(worker.status()["state"], "not_substantiated")

    def test_status_events_and_shutdown_tell_what_happens(self):
        master = Master()
        events = master.events()
        driver = Quick()
        master.add("w", driver).close()
        with master.submit(Build("b")) as ticket:
            ticket.wait(PATIENCE).succeed()
        [worker] = master.status()["workers"]
        self.assertEqual((worker["name"], worker["attached"]), ("w", True))
        report = master.shutdown(timeout=PATIENCE)
        self.assertTrue(report["complete"])
        with self.assertRaises(lw.Error):
            master.add("late", Quick())
        master.close()
        master.close()
        kinds = [event.kind for event in events]
        for kind in ["build_queued", "start_called", "build_started", "build_finished", "stop_returned", "shutdown"]:
            self.assertIn(kind, kinds)
        self.assertEqual((driver.started, driver.stopped), (1, 1))

    def test_bad_input_is_told_and_changes_nothing(self):
        with Master() as master:
            with self.assertRaises(lw.Error):
                master.add_local("a:b")
            with self.assertRaises(TypeError):
                master.add_local("w", labls=["x"])
            with self.assertRaises(ValueError):
                master.add_local("a\0b")
            master.add_local("w")
            with self.assertRaises(lw.Error):
                master.add_local("w")
            with self.assertRaises(lw.Error):
                master.add("w", Quick())
            with self.assertRaises(lw.Error):
                Master(journal="/no/such/directory/journal")
            with self.assertRaises(ValueError):
                master.submit(Build("b")).wait(-1)
        with self.assertRaises(lw.Error):
            master.status()

    def test_a_master_listens_for_agents(self):
        if not lw.has_feature("agent"):
            self.skipTest("the library was built without agents")
        with Master(listen="127.0.0.1:0") as master:
            self.assertRegex(master.address, r"^127\.0\.0\.1:\d+$")
        with Master() as master:
            self.assertIsNone(master.address)


class Drivers(unittest.TestCase):
    def failing(self, **methods):
        """What a build of a driver with these methods comes to, and the driver."""
        driver = type("Failing", (Quick,), methods)()
        with Master() as master:
            events = master.events()
            master.add("w", driver, missing_timeout=PATIENCE, check_interval=0.02)
            try:
                with master.submit(Build("b", {"p": "v"}, max_attempts=1)).wait(PATIENCE):
                    error = None
            except lw.Error as caught:
                error = caught
            self.assertTrue(master.shutdown(fast=True, timeout=PATIENCE)["complete"])
            return error, driver, [str(event) for event in self.so_far(events)]

    def so_far(self, events):
        while True:
            try:
                yield events.take(0)
            except (lw.TimedOut, lw.Ended):
                return

    def test_start_says_why_it_fails_and_is_stopped_once(self):
        def start(self, start):
            self.started += 1
            assert start.properties == {"p": "v"} and len(start.secret) == 64 and not start.cancelled
            start.record("an id")
            start.progress("so far")
            raise OSError(5, "the disk")

        error, driver, events = self.failing(start=start)
        self.assertIsInstance(error, lw.BuildFailed)
        self.assertIn("OSError: [Errno 5] the disk", str(error))
        self.assertEqual((driver.started, driver.stopped), (1, 1))
        self.assertTrue(any("so far" in event for event in events), events)

    def test_start_may_say_whose_fault_it_is(self):
        def cannot(self, start):
            raise lw.CannotSubstantiate("no such image")

        error, _, _ = self.failing(start=cannot)
        self.assertIsInstance(error, lw.CannotSubstantiate)
        self.assertIn("no such image", str(error))

        def throttled(self, start):
            raise lw.FailedToSubstantiate("slow down", "throttled", retry_after=77)

        error, _, events = self.failing(start=throttled)
        self.assertIn("slow down", str(error))
        self.assertTrue(any("77" in event for event in events if "quarantined" in event), events)

    def test_no_exception_leaves_a_callback(self):
        def exits(self, start):
            raise SystemExit(3)

        error, _, _ = self.failing(start=exits)
        self.assertIn("SystemExit: 3", str(error))

        def stop(self, stop):
            raise KeyError("gone\0")

        error, _, events = self.failing(stop=stop)
        self.assertIsNone(error)
        self.assertTrue(any("KeyError" in event for event in events if "stop returned" in event), events)

        def start(self, start):
            return object()

        def check(self, instance):
            raise RuntimeError("looks bad")

        error, driver, _ = self.failing(start=start, check=check, stop=lambda self, stop: None)
        self.assertIn("RuntimeError: looks bad", str(error))
        error, driver, _ = self.failing(start=start, check=lambda self, instance: "is ill", stop=lambda self, stop: None)
        self.assertIn("is ill", str(error))

    def test_an_instance_is_used_again_by_builds_that_it_fits(self):
        class Choosy(Quick):
            def start(self, start):
                super().start(start)
                return dict(start.properties)

            def stop(self, stop):
                self.stopped += 1

            def compatible(self, instance, properties):
                if properties["os"] == "broken":
                    raise ValueError("cannot tell")
                return instance == properties

        driver = Choosy()
        with Master() as master:
            master.add("w", driver)
            for system in ["linux", "linux", "bsd", "broken"]:
                master.submit(Build("b", {"os": system})).wait(PATIENCE).succeed()
        self.assertEqual((driver.started, driver.stopped), (3, 3))

    def test_a_cancelled_start_wakes_up(self):
        begun, woken = threading.Event(), threading.Event()

        class Slow(Quick):
            def start(self, start):
                begun.set()
                try:
                    start.sleep(1000)
                except lw.Cancelled:
                    woken.set()
                    raise

        with Master() as master:
            master.add("w", Slow())
            ticket = master.submit(Build("b"))
            self.assertTrue(begun.wait(PATIENCE))
            ticket.close()
            self.assertTrue(woken.wait(PATIENCE))

    def test_what_a_failed_stop_has_left_is_reclaimed(self):
        reclaimed = []
        done = threading.Event()

        class Leaky(Quick):
            def start(self, start):
                start.record("the id")
                start.attach()

            def stop(self, stop):
                raise OSError("no answer")

            def reclaim(self, leftover):
                reclaimed.append((leftover.ids, leftover.stage, leftover.worker, leftover.cancelled))
                if len(reclaimed) == 1:
                    raise lw.Pending("not yet")
                done.set()

        with Master() as master:
            worker = master.add("w", Leaky())
            master.submit(Build("b")).wait(PATIENCE).succeed()
            worker.insubstantiate(timeout=PATIENCE)
            self.assertTrue(done.wait(PATIENCE))
        self.assertEqual(reclaimed, [(["the id"], "stopping", "w", False)] * 2)

    def test_callbacks_may_call_the_library_and_free_its_master(self):
        class Curious(Quick):
            master = None

            def start(self, start):
                assert Curious.master.status()["workers"]
                return super().start(start)

            def stop(self, stop):
                super().stop(stop)
                Curious.master.close()

        driver = Curious()
        Curious.master = master = Master()
        worker = master.add("w", driver)
        master.submit(Build("b")).wait(PATIENCE).succeed()
        worker.insubstantiate(timeout=PATIENCE)
        self.assertEqual((driver.started, driver.stopped), (1, 1))

    def test_a_driver_is_let_go_of(self):
        before = len(lw._Table._kept)
        with Master() as master:
            master.add("w", Quick())
            self.assertEqual(len(lw._Table._kept), before + 1)
        deadline = time.monotonic() + PATIENCE
        while len(lw._Table._kept) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(len(lw._Table._kept), before)


class Many(unittest.TestCase):
    def test_threads_submit_and_wait_at_once(self):
        driver, done = Quick(), []
        with Master() as master:
            for number in range(4):
                master.add(f"w{number}", driver)

            def work():
                for _ in range(25):
                    with master.submit(Build("b")).wait(PATIENCE) as lease:
                        done.append(lease.worker)

            threads = [threading.Thread(target=work) for _ in range(8)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        self.assertEqual(len(done), 200)
        self.assertEqual((driver.live, driver.started), (set(), driver.stopped))

    def test_an_event_loop_waits_for_answers_and_events(self):
        async def run():
            with Master() as master:
                master.add("w", Quick())
                inbox = lw.Inbox()
                numbers = {master.submit_to(Build("b"), inbox) for _ in range(5)}
                numbers.add(master.submit_to(Build("b", labels=["nobody"]), inbox))
                events, seen, failed = master.events(), [], 0
                while numbers:
                    number, answer = await asyncio.wait_for(inbox.next(), PATIENCE)
                    numbers.discard(number)
                    if isinstance(answer, lw.Error):
                        failed += 1
                    else:
                        answer.succeed()
                self.assertEqual(failed, 1)
                with self.assertRaises(lw.TimedOut):
                    inbox.take(0)
                async for event in events:
                    seen.append(event.kind)
                    if event.kind == "build_finished":
                        break
                inbox.close()

        asyncio.run(run())

    def test_ten_thousand_cycles_do_not_grow(self):
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        def cycles(count):
            for _ in range(count):
                with master.submit(Build("b", {"p": "v"})).wait(PATIENCE):
                    pass

        driver = Quick()
        with Master() as master:
            master.add("w", driver, idle="after_build")
            cycles(2_000)
            before = resident()
            cycles(10_000)
            grown = resident() - before
        self.assertEqual(driver.started, 12_000)
        self.assertLess(grown, 4 << 20)


class Processes(unittest.TestCase):
    def test_a_forked_child_is_told_so(self):
        with Master() as master:
            master.add("w", Quick())
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                answers = []
                for call in [master.status, lambda: master.submit(Build("b")), Master, lw.Inbox, master.shutdown]:
                    try:
                        call()
                        answers.append("nothing")
                    except lw.Error as error:
                        answers.append(type(error).__name__)
                master.close()
                os.write(writer, " ".join(answers).encode())
                os._exit(0)
            os.close(writer)
            with os.fdopen(reader, "rb") as file:
                self.assertEqual(file.read(), b"Forked Forked Forked Forked Forked")
            os.waitpid(child, 0)
            master.submit(Build("b")).wait(PATIENCE).succeed()

    def interpreter(self, program):
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
        return done, time.monotonic() - begun

    HEAD = """
import sys, threading, time
from latent_worker import Build, Driver, Master
class Loud(Driver):
    def start(self, start):
        start.attach()
    def stop(self, stop):
        print("stopped", flush=True)
master = Master()
"""

    def test_an_interpreter_ends_with_live_workers(self):
        done, _ = self.interpreter(self.HEAD + "master.add('w', Loud())\nlease = master.submit(Build('b')).wait(60)\n")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "stopped\n", ""))
        local = "master.add_local('w')\nlease = master.submit(Build('b')).wait(60)\nrunning = lease.start('sleep 1000')\n"
        done, _ = self.interpreter(self.HEAD + local)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        done, _ = self.interpreter(self.HEAD + "master.add('w', Loud())\nmaster.submit(Build('b')).wait(60)\nsys.exit(7)\n")
        self.assertEqual(done.returncode, 7)

    def test_an_interpreter_ends_though_a_driver_hangs(self):
        hang = """
class Hanging(Loud):
    def start(self, start):
        begun.set()
        time.sleep(1000)
begun = threading.Event()
master.add('w', Hanging())
ticket = master.submit(Build('b'))
begun.wait(60)
"""
        done, took = self.interpreter(self.HEAD + hang)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertLess(took, 30)


if __name__ == "__main__":
    unittest.main()
