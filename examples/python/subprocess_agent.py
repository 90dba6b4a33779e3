"""An agent in Python that runs commands as child processes of this one: for instances that are directories here.

    def start(self, start):
        directory = tempfile.mkdtemp()
        start.attach(SubprocessAgent(directory))
        return directory

It is an example of an :class:`~latent_worker.Agent`, whole enough to be used. Unix only. It copies no files.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from typing import Dict, Optional

from latent_worker import Agent, AgentCommand, AgentProcess, Error, Exit


class _Child:
    """A child process that leads a process group of its own, which does not outlive it."""

    def __init__(self, command: AgentCommand, directory: str) -> None:
        variables = {**os.environ, **command.env}
        with tempfile.TemporaryFile() as given:
            given.write(command.input)
            given.seek(0)
            self.child = subprocess.Popen(
                command.program, shell=isinstance(command.program, str), start_new_session=True,
                cwd=os.path.join(directory, command.directory or ""),
                env={name: value for name, value in variables.items() if value is not None},
                stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        self._lock = threading.Lock()
        # Until it is reaped its number is nobody else's.
        self._is_reaped = False
        self.killed: Optional[Exit] = None

    def kill(self, why: Exit) -> None:
        with self._lock:
            if not self._is_reaped:
                self.killed = self.killed or why
                self._kill_group()

    def wait(self) -> None:
        """Blocks until it has ended, and ends the rest of its group."""
        with contextlib.suppress(ChildProcessError):  # reaped meanwhile
            os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            if not self._is_reaped:
                self._kill_group()

    def reap(self) -> int:
        """As the wait, and the last of it; the code is as :mod:`subprocess` has it."""
        self.wait()
        with self._lock, self.child:
            self._is_reaped = True
            return self.child.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(PermissionError):  # what macOS says of a group that has ended
            os.killpg(self.child.pid, signal.SIGKILL)


class SubprocessAgent(Agent):
    """Runs commands in a directory. Each has two threads: one copies its output, one waits for its end."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._running: Dict[AgentProcess, _Child] = {}
        self._is_closed = False

    def start_command(self, command: AgentCommand, process: AgentProcess) -> None:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the instance is about to be stopped")
            child = self._running[process] = _Child(command, self.directory)
        attend = threading.Thread(target=self._attend, args=(command, process, child), daemon=True)
        try:
            attend.start()
        except RuntimeError:
            self.interrupt(process)
            raise

    def interrupt(self, process: AgentProcess) -> None:
        with self._lock:
            child = self._running.get(process)
        if child is not None:
            child.kill(Exit.INTERRUPTED)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            children = list(self._running.values())
        for child in children:
            child.kill(Exit.INTERRUPTED)
        for child in children:
            child.wait()

    def _attend(self, command: AgentCommand, process: AgentProcess, child: _Child) -> None:
        try:
            _copy_output(command, process, child)
        except BaseException as error:
            child.kill(Exit.INTERRUPTED)
            process.fail(f"{type(error).__name__}: {error}")
            raise
        finally:
            code = child.reap()
            with self._lock:
                del self._running[process]
            if child.killed is not None:
                process.end(-1, child.killed)
            else:
                process.end(abs(code), Exit.CODE if code >= 0 else Exit.SIGNAL)


def _copy_output(command: AgentCommand, process: AgentProcess, child: _Child) -> None:
    """Until the child has ended. Kills it at its limits, and when nobody reads any more."""
    end, ended = os.pipe()

    def wait() -> None:
        child.wait()
        os.close(ended)

    is_read = True

    def copy(source: selectors.SelectorKey) -> None:
        """What is there of one stream: all of it, since no pipe holds more."""
        nonlocal is_read
        data = os.read(source.fd, 1 << 20)
        if not data:
            sources.unregister(source.fileobj)
        elif is_read:
            try:
                process.write(source.data, data)
            except Error:
                is_read = False
                child.kill(Exit.INTERRUPTED)

    begun = heard = time.monotonic()
    with selectors.DefaultSelector() as sources, os.fdopen(end, "rb", 0) as end_file:
        sources.register(end_file, selectors.EVENT_READ)
        for pipe, stream in ((child.child.stdout, "out"), (child.child.stderr, "err")):
            assert pipe is not None
            sources.register(pipe, selectors.EVENT_READ, stream)
        threading.Thread(target=wait, daemon=True).start()
        # When the end is there, so is all that the group has written. Nothing is waited for after that: whoever has
        # left the group may write for ever.
        while end_file in sources.get_map():
            at, limit = min(
                (begun + (command.time_limit or math.inf), Exit.TIME_LIMIT),
                (heard + (command.silence_limit or math.inf), Exit.SILENCE_LIMIT),
            )
            left = at - time.monotonic()
            if left <= 0 and child.killed is None:
                child.kill(limit)
            for source, _ in sources.select(left if left < math.inf and child.killed is None else None):
                copy(source)
                heard = time.monotonic()
