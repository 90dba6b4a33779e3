"""The end of the interpreter, and forks: no hang, no crash, and nothing done in the wrong process."""

import os
import signal
import subprocess
import sys
import time
import unittest
import warnings

import latent_worker as lw
from latent_worker import Build, Master
from support import PATIENCE, Clean, Quick

HEAD = """
import sys, threading, time
import latent_worker
from latent_worker import Build, Driver, Master
class Loud(Driver):
    def start(self, start):
        start.attach()
    def stop(self, stop):
        print("stopped", flush=True)
master = Master()
"""


class Processes(Clean):
    def test_a_forked_child_is_told_so(self):
        with Master() as master:
            master.add("w", Quick())
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                signal.alarm(30)
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

    def test_a_driver_that_forks_is_told_so_in_the_child(self):
        class Forking(Quick):
            def start(self, start):
                child = os.fork()
                if child == 0:
                    signal.alarm(30)
                    try:
                        start.progress("in the child")
                    except lw.Forked:
                        os._exit(42)
                    os._exit(1)
                self.ended = os.waitpid(child, 0)[1]
                return super().start(start)

        driver = Forking()
        with warnings.catch_warnings(), Master() as master:
            warnings.simplefilter("ignore", DeprecationWarning)
            master.add("w", driver)
            master.submit(Build("b")).wait(PATIENCE).succeed()
        self.assertEqual(driver.ended >> 8, 42)

    def interpreter(self, program, before=""):
        """What a program comes to that begins with a master and a driver."""
        begun = time.monotonic()
        command = [sys.executable, "-c", before + HEAD + program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        return (done.returncode, done.stdout, done.stderr), time.monotonic() - begun

    def test_an_interpreter_ends_with_live_workers(self):
        done, _ = self.interpreter("master.add('w', Loud())\nlease = master.submit(Build('b')).wait(60)\n")
        self.assertEqual(done, (0, "stopped\n", ""))
        done, took = self.interpreter("""
master.add_local('w')
lease = master.submit(Build('b')).wait(60)
process = lease.start('sleep 1000')
""")
        self.assertEqual(done, (0, "", ""))
        self.assertLess(took, 30)

    def test_an_interpreter_ends_while_agents_run_commands_and_start_some(self):
        program = """
from subprocess_agent import SubprocessAgent
class Slow(SubprocessAgent):
    def start_command(self, command, process):
        if command.program == 'slow':
            begun.set()
            while True:
                time.sleep(0.0002)
        super().start_command(command, process)
class Running(Loud):
    def start(self, start):
        start.attach(Slow('.'))
def run(command):
    try:
        with master.submit(Build('b')).wait(60) as lease:
            while True:
                lease.run(command)
    except latent_worker.Error:
        pass
begun = threading.Event()
master.add('w', Running(), max_builds=4)
lease = master.submit(Build('b')).wait(60)
process = lease.start(['sh', '-c', 'echo $$; exec sleep 1000'])
print(int(process.read(60).data), flush=True)
"""
        busy = """
for command in ['slow', ['true'], ['true']]:
    threading.Thread(target=run, args=(command,), daemon=True).start()
begun.wait(60)
sys.exit(7)
"""
        for more, exit in [("", 0)] + [(busy, 7)] * 5:
            (code, out, err), took = self.interpreter(program + more)
            child, *rest = out.split()
            self.assertEqual((code, rest, err), (exit, ["stopped"], ""))
            self.assertLess(took, 30)
            with self.assertRaises(ProcessLookupError):
                os.kill(int(child), 0)

    def test_an_interpreter_ends_with_its_own_exit_code_and_other_threads(self):
        program = """
master.add('w', Loud())
def wait():
    try:
        while True:
            master.submit(Build('b')).wait().succeed()
            ready.set()
    except latent_worker.Error:
        pass
ready = threading.Event()
for _ in range(4):
    threading.Thread(target=wait, daemon=True).start()
ready.wait(60)
sys.exit(7)
"""
        for _ in range(5):
            done, _ = self.interpreter(program)
            self.assertEqual(done, (7, "stopped\n", ""))

    def test_an_interpreter_ends_though_drivers_do_not(self):
        """They come to the interpreter at every moment of its end; on threads of the library that would crash it."""
        program = """
class Restless(Loud):
    def start(self, start):
        begun.release()
        while True:
            time.sleep(0.0002)
latent_worker.EXIT_PATIENCE = 0.2
begun = threading.Semaphore(0)
for number in range(4):
    master.add(f'w{number}', Restless())
tickets = [master.submit(Build('b')) for _ in range(4)]
for _ in range(4):
    begun.acquire()
sys.exit(7)
"""
        # What is registered before the binding is called after its end: then nobody of the library is here any more.
        before = """
import atexit
atexit.register(lambda: print(len(latent_worker._Visit.all), len(latent_worker._Table._kept)))
"""
        for _ in range(5):
            done, took = self.interpreter(program, before)
            self.assertEqual(done, (7, "0 0\n", ""))
            self.assertLess(took, 30)

    def test_a_hanging_driver_is_waited_for_within_a_bound(self):
        done, took = self.interpreter("""
class Hanging(Loud):
    def stop(self, stop):
        time.sleep(1000)
master.add('w', Hanging())
master.submit(Build('b')).wait(60).succeed()
""")
        self.assertEqual(done, (0, "", ""))
        self.assertGreater(took, 4)
        self.assertLess(took, 30)


if __name__ == "__main__":
    unittest.main()
