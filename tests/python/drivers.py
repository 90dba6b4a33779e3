"""Drivers in Python: what each method is told, and what its exceptions come to."""

import gc
import re
import threading
import time
import unittest

import latent_worker as lw
from latent_worker import Build, Master
from support import PATIENCE, Clean, Quick


class Drivers(Clean):
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
        # The provider's hint and up to a quarter more.
        lengths = [re.search(r"for ([0-9.]+)s", event) for event in events if "quarantined" in event]
        self.assertTrue(any(length and 77 <= float(length[1]) < 97 for length in lengths), events)

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

        def stops(self, stop):
            pass

        error, driver, _ = self.failing(start=start, check=check, stop=stops)
        self.assertIn("RuntimeError: looks bad", str(error))
        error, driver, _ = self.failing(start=start, check=lambda self, instance: "is ill", stop=stops)
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

    def test_builds_of_one_kind_use_one_instance(self):
        class Kinds(Quick):
            asked = 0

            def compatible(self, instance, properties):
                raise AssertionError("the kind says it")

            def kind(self, properties):
                self.asked += 1
                if properties["os"] == "every":
                    return None
                if properties["os"] == "nul":
                    return "a\0b"
                return "<%s>" % properties["os"].upper()

        driver = Kinds()
        with Master() as master:
            master.add("w", driver)
            for properties, started, asked in [
                ({"os": "linux"}, 1, 1),
                ({"os": "Linux", "revision": "1"}, 1, 2),
                ({"os": "linux"}, 1, 2),
                ({"os": "bsd"}, 2, 3),
                ({"os": "every"}, 3, 4),
                ({"os": "every", "revision": "1"}, 4, 5),
            ]:
                master.submit(Build("b", properties)).wait(PATIENCE).succeed()
                self.assertEqual((driver.started, driver.asked), (started, asked), properties)
            for properties, reason in [({}, "KeyError: 'os'"), ({"os": "nul"}, "NUL")]:
                with self.assertRaises(lw.CannotSubstantiate) as caught:
                    master.submit(Build("b", properties)).wait(PATIENCE)
                self.assertIn(reason, str(caught.exception))
            self.assertEqual(driver.started, 4)

    def test_an_attached_instance_is_checked_as_well(self):
        class Fading(Quick):
            attached_check_interval = 1

            def check(self, instance):
                return "it fades"

        driver = Fading()
        with Master() as master:
            events = master.events()
            arriving = iter(lambda: events.take(PATIENCE), None)
            master.add("w", driver)
            with master.submit(Build("b")).wait(PATIENCE):
                checked = next(event for event in arriving if event.kind == "check_returned")
            self.assertIn("it fades", str(checked))
            master.submit(Build("b")).wait(PATIENCE).succeed()
        self.assertEqual((driver.started, driver.stopped), (2, 2))

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

    def test_a_hurried_stop_wakes_up(self):
        begun, woken = threading.Event(), []

        class Slow(Quick):
            def stop(self, stop):
                super().stop(stop)
                begun.set()
                try:
                    stop.sleep(1000)
                except lw.Hurried:
                    woken.append((stop.fast, stop.hurried))

        with Master() as master:
            worker = master.add("w", Slow())
            master.submit(Build("b")).wait(PATIENCE).succeed()
            with self.assertRaises(lw.TimedOut):
                worker.insubstantiate(timeout=0)
            self.assertTrue(begun.wait(PATIENCE))
            self.assertEqual(woken, [])
            worker.insubstantiate(fast=True, timeout=PATIENCE)
        self.assertEqual(woken, [(False, True)])

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

    def test_a_driver_may_collect_its_own_master(self):
        begun, dropped, collected, took = threading.Event(), threading.Event(), threading.Event(), []

        class Collecting(Quick):
            def start(self, start):
                begun.set()
                dropped.wait(PATIENCE)
                before = time.monotonic()
                gc.collect()
                took.append(time.monotonic() - before)
                collected.set()
                start.sleep(PATIENCE)

        def drop():
            knot = [Master()]
            knot.append(knot)
            knot.append(knot[0].add("w", Collecting()))
            knot.append(knot[0].submit(Build("b")))
            begun.wait(PATIENCE)

        gc.disable()
        try:
            drop()
            dropped.set()
            collected.wait(PATIENCE)
            self.tearDown()
        finally:
            gc.enable()
        # The master waits for the start with all its patience, which is half a minute; the start does not.
        self.assertLess(took[0], 10)


if __name__ == "__main__":
    unittest.main()
