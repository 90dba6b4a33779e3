"""Agents in Python: commands that they run, what their exceptions come to, and that nothing of them stays."""

import _thread
import contextlib
import gc
import io
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import unittest
import weakref
from unittest import mock

import latent_worker as lw
from latent_worker import Agent, Build, Exit, Master
from subprocess_agent import SubprocessAgent
from support import PATIENCE, Clean, Quick, held


# Its child leaves the group and keeps the output open, in which it writes without end.
DETACHED = """
import subprocess, sys
child = subprocess.Popen(["sh", "-c", "while :; do echo $$; done"], start_new_session=True)
sys.stderr.write(str(child.pid))
"""


class Scripted(Agent):
    """Hands every command and interrupt to the test, and does nothing by itself."""

    def __init__(self):
        self.started, self.interrupted, self.closed = queue.Queue(), queue.Queue(), 0

    def start_command(self, command, process):
        self.started.put((command, process))

    def interrupt(self, process):
        self.interrupted.put(process)

    def close(self):
        self.closed += 1


class Attaching(Quick):
    """Attaches with what it is told to make, for each instance."""

    def __init__(self, make):
        super().__init__()
        self.make, self.attachments = make, queue.Queue()

    def start(self, start):
        with self.lock:
            self.started += 1
            self.live.add(start.key)
        self.attachments.put(start.attach(self.make()))
        return start.key


class Agents(Clean):
    @contextlib.contextmanager
    def leased(self, agent, **options):
        """A lease of an instance with this agent, and its driver."""
        driver = Attaching(lambda: agent)
        with Master() as master:
            master.add("w", driver, **options)
            with master.submit(Build("b", max_attempts=1)).wait(PATIENCE) as lease:
                yield lease, driver

    def running(self, agent, lease, *command, **settings):
        """A command of the lease, and what the agent was told of it."""
        process = lease.start(*command or ("x",), **settings)
        return (process, *agent.started.get(timeout=PATIENCE))

    def test_a_command_is_told_as_it_was_given(self):
        agent = Scripted()
        with self.leased(agent) as (lease, _):
            settings = {"directory": "d", "env": {"A": "é", "B": None}, "input": b"\0in", "time_limit": 1.5}
            running, command, process = self.running(agent, lease, "a line", **settings, silence_limit=2)
            self.assertEqual((command.program, command.directory, command.input), ("a line", "d", b"\0in"))
            self.assertEqual((command.env, command.time_limit), ({"A": "é", "B": None}, 1.5))
            self.assertEqual(command.silence_limit, 2.0)
            process.end()
            running, command, process = self.running(agent, lease, ["a", "b c"])
            self.assertEqual((command.program, command.directory, command.input), (["a", "b c"], None, b""))
            self.assertEqual((command.env, command.time_limit, command.silence_limit), ({}, None, None))
            process.end()

    def test_output_streams_while_the_command_runs(self):
        agent = Scripted()
        with self.leased(agent) as (lease, _):
            running, _, process = self.running(agent, lease)
            with self.assertRaises(lw.TimedOut):
                running.read(0)
            process.write("out", b"one\0")
            self.assertEqual((lambda output: (output.stream, output.data))(running.read(PATIENCE)), ("out", b"one\0"))
            process.write("err", b"two")
            self.assertEqual((lambda output: (output.stream, output.data))(running.read(PATIENCE)), ("err", b"two"))
            with self.assertRaises(ValueError):
                process.write("end", b"")
            process.end(7)
            process.end(8)
            process.fail("too late")
            end = running.read(PATIENCE).end
            self.assertEqual((end.exit, end.code), (Exit.CODE, 7))
            with self.assertRaises(lw.Error):
                process.write("out", b"too late")

    def test_every_kind_of_end_is_told(self):
        agent = Scripted()
        with self.leased(agent) as (lease, _):
            ours = [(exit, -1) for exit in (Exit.TIME_LIMIT, Exit.SILENCE_LIMIT, Exit.INTERRUPTED)]
            for exit, code in [(Exit.SIGNAL, 9), *ours]:
                running, _, process = self.running(agent, lease)
                process.end(code, exit)
                end = running.read(PATIENCE).end
                self.assertEqual((end.exit, end.code), (exit, code))

    def test_an_interrupt_reaches_the_agent_with_its_process(self):
        agent = Scripted()
        with self.leased(agent) as (lease, _):
            other = self.running(agent, lease)
            running, _, process = self.running(agent, lease)
            running.interrupt()
            self.assertIs(agent.interrupted.get(timeout=PATIENCE), process)
            with self.assertRaises(lw.Cancelled):
                process.write("out", b"more")
            process.end(exit=Exit.INTERRUPTED)
            self.assertEqual(running.read(PATIENCE).end.exit, Exit.INTERRUPTED)
            # Closing, or losing, a command that runs interrupts it as well.
            other[0].close()
            self.assertIs(agent.interrupted.get(timeout=PATIENCE), other[2])
            with self.assertRaises(lw.Error):
                other[2].write("out", b"more")
            other[2].end()

    def test_the_garbage_collector_does_not_wait_for_an_agent(self):
        """It comes within a lock of the agent, which the interrupt takes as well."""

        class Locking(Scripted):
            lock = threading.Lock()

            def interrupt(self, process):
                with self.lock:
                    super().interrupt(process)

        agent = Locking()
        with Master() as master:
            master.add("w", Attaching(lambda: agent), max_builds=2)
            leases = [master.submit(Build("b")).wait(PATIENCE) for _ in range(2)]
            running, _, one = self.running(agent, leases[0])
            _, _, other = self.running(agent, leases[1])
            knot = [running, leases.pop()]
            knot.append(knot)
            del running, knot, _
            with agent.lock:
                gc.collect()
            interrupted = iter(lambda: agent.interrupted.get(timeout=PATIENCE), None)
            seen = {next(interrupted), next(interrupted)}
            while seen != {one, other}:
                seen.add(next(interrupted))
            one.end()
            other.end()
            leases.pop().succeed()

    def test_what_an_agent_raises_or_forgets_is_an_error(self):
        class Bad(Scripted):
            def start_command(self, command, process):
                if command.program == "raise":
                    raise OSError(5, "no\0 program")
                if command.program == "exit":
                    raise SystemExit(3)
                if command.program == "unsupported":
                    super(Scripted, self).start_command(command, process)
                if command.program == "fail":
                    process.fail("it broke\0")
                if command.program == "interrupt":
                    super().start_command(command, process)

            def interrupt(self, process):
                raise KeyError("cannot")

        agent = Bad()
        with self.leased(agent) as (lease, _):
            for program, reason in [
                ("raise", "OSError: [Errno 5] no  program"), ("exit", "SystemExit: 3"), ("fail", "it broke"),
                ("forget", "forgotten"),
            ]:
                with self.assertRaises(lw.Error) as caught:
                    lease.run(program)
                self.assertIn(reason, str(caught.exception))
            with self.assertRaises(lw.Unsupported):
                lease.run("unsupported")
            running, _, process = self.running(agent, lease, "interrupt")
            running.interrupt()
            with self.assertRaises(lw.Error) as caught:
                running.read(PATIENCE)
            self.assertIn("KeyError: 'cannot'", str(caught.exception))

    def test_without_an_agent_there_are_no_commands(self):
        for agent in [None, Agent()]:
            with self.leased(agent) as (lease, _):
                self.assertIs(lease.agent, agent)
                with self.assertRaises(lw.Unsupported):
                    lease.run("true")
                with self.assertRaises(lw.Error):
                    lease.put(__file__, "there")

    def test_a_lease_leads_to_its_agent(self):
        agent = Scripted()
        with self.leased(agent) as (lease, driver):
            self.assertIs(lease.agent, agent)
            driver.attachments.get(timeout=PATIENCE).lost("gone")
            with self.assertRaises(lw.LeaseEnded):
                lease.wait_end(PATIENCE)
            self.assertIs(lease.agent, agent)
        with Master() as master:
            master.add_local("w")
            with master.submit(Build("b")).wait(PATIENCE) as lease:
                self.assertIsNone(lease.agent)

    def test_an_agent_that_is_lost_ends_the_lease(self):
        agent = Scripted()
        driver = Attaching(lambda: agent)
        with Master() as master:
            events = master.events()
            master.add("w", driver)
            lease = master.submit(Build("b")).wait(PATIENCE)
            running, _, process = self.running(agent, lease)
            with self.assertRaises(lw.TimedOut):
                lease.wait_end(0)
            attachment = driver.attachments.get(timeout=PATIENCE)
            with self.assertRaises(ValueError):
                attachment.lost("\0")
            attachment.lost("the cable is out")
            attachment.lost("again")
            with self.assertRaises(lw.LeaseEnded):
                lease.wait_end(PATIENCE)
            with self.assertRaises(lw.LeaseEnded):
                running.read(PATIENCE)
            self.assertIs(agent.interrupted.get(timeout=PATIENCE), process)
            lease.close()
            arriving = iter(lambda: events.take(PATIENCE), None)
            self.assertTrue(any("the cable is out" in str(event) for event in arriving))
            process.end()
            master.submit(Build("b")).wait(PATIENCE).succeed()
        self.assertEqual((driver.started, driver.stopped), (2, 2))

    def test_an_attachment_that_nobody_keeps_stays(self):
        agent, driver = Scripted(), Quick()
        driver.start = lambda start: start.attach(agent) and None
        driver.stop = lambda stop: None
        with Master() as master:
            master.add("w", driver)
            with master.submit(Build("b")).wait(PATIENCE) as lease:
                gc.collect()
                running, _, process = self.running(agent, lease)
                process.end()
                self.assertTrue(running.read(PATIENCE).end.success)

    def test_an_agent_is_closed_before_its_instance_is_stopped(self):
        order = []

        class Closing(Scripted):
            def close(self):
                order.append("close")
                raise ValueError("will not")

        class Ordered(Attaching):
            def stop(self, stop):
                order.append("stop")
                super().stop(stop)

        said = io.StringIO()
        with contextlib.redirect_stderr(said), Master() as master:
            worker = master.add("w", Ordered(Closing))
            master.submit(Build("b")).wait(PATIENCE).succeed()
            worker.insubstantiate(timeout=PATIENCE)
        self.assertEqual(order, ["close", "stop"])
        self.assertIn("ValueError: will not", said.getvalue())

    def test_a_second_agent_is_refused_and_let_go_of(self):
        class Twice(Quick):
            def start(self, start):
                super().start(start)
                second = Agent()
                Twice.second = weakref.ref(second)
                try:
                    start.attach(second)
                except lw.Error as error:
                    refused.put(str(error))
                return start.key

        refused = queue.Queue()

        with Master() as master:
            master.add("w", Twice())
            with master.submit(Build("b")).wait(PATIENCE):
                self.assertIn("attached", refused.get(timeout=PATIENCE))
        self.tearDown()
        gc.collect()
        self.assertIsNone(Twice.second())

    def test_an_interrupt_of_the_main_thread_while_a_command_starts_is_raised(self):
        done = threading.Event()

        class Slow(Scripted):
            def start_command(self, command, process):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                done.wait(PATIENCE)
                super().start_command(command, process)

        agent = Slow()
        with self.leased(agent) as (lease, _):
            with self.assertRaises(KeyboardInterrupt):
                lease.run("x")
            done.set()
            agent.started.get(timeout=PATIENCE)[1].end()
            self.assertIsNotNone(lease.worker)

    def test_a_thousand_cycles_leave_nothing(self):
        made = []

        class Echo(Agent):
            def start_command(self, command, process):
                _thread.start_new_thread(self.run, (command, process))

            def run(self, command, process):
                process.write("out", command.input)
                process.end()

        def make():
            agent = Echo()
            made.append(weakref.ref(agent))
            return agent

        with Master() as master:
            worker = master.add("w", Attaching(make), idle="after_build")

            def cycles(count):
                for number in range(count):
                    with master.submit(Build("b")).wait(PATIENCE) as lease:
                        self.assertEqual(lease.run("x", input=b"%d" % number).out, b"%d" % number)
                worker.insubstantiate(timeout=PATIENCE)
                gc.collect()
                return held()

            self.assertEqual(cycles(1_000), cycles(10))
            self.assertEqual(len(made), 1_010)
            self.assertEqual([agent for agent in made if agent() is not None], [])
            self.assertEqual((len(lw.AgentProcess._all), lw._Visit.all), (0, set()))


class Subprocesses(Clean):
    """The agent of the examples."""

    @contextlib.contextmanager
    def leased(self):
        with tempfile.TemporaryDirectory() as directory, Master() as master:
            agent = SubprocessAgent(directory)
            master.add("w", Attaching(lambda: agent))
            with master.submit(Build("b")).wait(PATIENCE) as lease:
                yield lease, directory
    def test_a_build_runs_commands_and_reads_their_output(self):
        with self.leased() as (lease, directory):
            os.mkdir(os.path.join(directory, "sub"))
            with mock.patch.dict(os.environ, {"GONE": "here"}):
                script = "read line; echo $line $X ${GONE-gone} $(basename $(pwd)); echo no >&2; exit 3"
                done = lease.run(script, env={"X": "y", "GONE": None}, input=b"in\n", directory="sub")
            self.assertEqual((done.out, done.err, done.code), (b"in y gone sub\n", b"no\n", 3))
            self.assertEqual(lease.run(["printf", "%s", "a b"]).out, b"a b")
            done = lease.run(["sh", "-c", "kill -9 $$"])
            self.assertEqual((done.exit, done.code), (Exit.SIGNAL, 9))
            self.assertEqual(len(lease.run("yes | head -c 5000000", keep_output=10_000_000).out), 5_000_000)
            self.assertEqual(lease.run("cat", input=b"x" * 1_000_000).out, b"x" * 1_000_000)
            for command, reason in [(["/no/such/program"], "FileNotFoundError"), ([""], "Error")]:
                with self.assertRaises(lw.Error) as caught:
                    lease.run(command)
                self.assertIn(reason, str(caught.exception))
            self.assertEqual(lease.agent._running, {})

    def test_output_streams_and_an_interrupt_ends_the_whole_group(self):
        with self.leased() as (lease, _):
            running = lease.start("sleep 1000 & echo $!; wait")
            child = int(running.read(PATIENCE).data)
            running.interrupt()
            self.assertEqual(running.read(PATIENCE).end.exit, Exit.INTERRUPTED)
            self.assert_gone(child)

    def test_limits_end_a_command(self):
        with self.leased() as (lease, _):
            done = lease.run("echo so far; exec sleep 1000", time_limit=0.2)
            self.assertEqual((done.exit, done.out), (Exit.TIME_LIMIT, b"so far\n"))
            closed = "exec >&- 2>&-; exec sleep 1000"
            self.assertEqual(lease.run(closed, time_limit=0.1).exit, Exit.TIME_LIMIT)
            self.assertEqual(lease.run("echo; exec sleep 1000", silence_limit=0.1).exit, Exit.SILENCE_LIMIT)
            self.assertTrue(lease.run("true", time_limit=1000, silence_limit=1000).success)

    def test_a_command_ends_with_its_process_whatever_that_has_started(self):
        with self.leased() as (lease, _):
            done = lease.run("sleep 1000 & echo $!")
            self.assertTrue(done.success)
            self.assert_gone(int(done.out))
            done = lease.run([sys.executable, "-c", DETACHED])
            self.assertTrue(done.success)
            os.kill(int(done.err), signal.SIGKILL)

    def test_a_stop_ends_what_runs(self):
        class Looking(Attaching):
            def stop(self, stop):
                self.left = None if is_gone(child) else child
                super().stop(stop)

        with tempfile.TemporaryDirectory() as directory, Master() as master:
            driver = Looking(lambda: SubprocessAgent(directory))
            worker = master.add("w", driver)
            lease = master.submit(Build("b")).wait(PATIENCE)
            running = lease.start("echo $$; exec sleep 1000")
            child = int(running.read(PATIENCE).data)
            agent = lease.agent
            # One that takes its time to die.
            kill, first = os.killpg, threading.Lock()
            with mock.patch("os.killpg") as late:
                late.side_effect = lambda *it: first.acquire(False) and threading.Timer(0.2, kill, it).start()
                worker.insubstantiate(fast=True, timeout=PATIENCE)
            self.assertIsNone(driver.left)
            with self.assertRaises(RuntimeError):
                agent.start_command(None, None)

    def assert_gone(self, child):
        """That a process that was killed is no more, soon."""
        deadline = time.monotonic() + PATIENCE
        while not is_gone(child):
            self.assertLess(time.monotonic(), deadline, f"process {child} still runs")
            time.sleep(0.01)


def is_gone(child):
    """Whether a process is no more, or has only not been waited for."""
    try:
        with open(f"/proc/{child}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


if __name__ == "__main__":
    unittest.main()
