"""Builds from their submission to the end of their leases: commands, files, events, cancelling, time-outs."""

import os
import tempfile
import threading
import unittest

import latent_worker as lw
from latent_worker import Build, Master
from support import PATIENCE, Clean, Quick


class Life(Clean):
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
            self.assertEqual((finished.build, finished.result), (1, "failed"))

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

    def test_without_a_time_out_waiting_has_no_limit(self):
        with Master() as master:
            worker = master.add("w", Quick())
            worker.pause()
            ticket = master.submit(Build("b"))
            threading.Timer(0.2, worker.unpause).start()
            ticket.wait().succeed()

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
        with self.assertRaises(lw.ShutDown):
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


if __name__ == "__main__":
    unittest.main()
