"""A farm: a list of builds on workers of this machine, and on a kind of worker that is written here in Python.

Run it as `python3 farm.py`; see the README beside it.
"""

import os
import shutil
import tempfile
import threading
import time

from latent_worker import Build, BuildFailed, Driver, Master
from subprocess_agent import SubprocessAgent

BUILDS = [Build(f"build {n}", {"n": str(n)}, labels=["sandbox" if n % 3 == 0 else "shell"]) for n in range(1, 10)]


class Sandbox(Driver):
    """Each instance is a directory, in which an agent runs the commands of builds."""

    def start(self, start):
        directory = tempfile.mkdtemp(prefix="sandbox-")
        start.record(directory)  # with a journal it would be found after a crash
        start.attach(SubprocessAgent(directory))
        start.detail(directory)
        return directory

    def stop(self, stop):
        if stop.has_instance:
            shutil.rmtree(stop.instance)


def main():
    rows, lock = [], threading.Lock()

    def run(ticket, build):
        begun = time.monotonic()
        try:
            with ticket.wait(timeout=60) as lease:
                said = lease.run("sleep 0.2; echo $N in $(basename $(pwd))", env={"N": build.name}).out.decode()
                worker = lease.worker
        except BuildFailed as error:
            worker, said = "-", str(error)
        with lock:
            rows.append((build.name, worker, f"{time.monotonic() - begun:.2f} s", said.strip()))

    with Master() as master:
        for number in range(1, 3):
            master.add_local(f"local-{number}", labels=["shell"])
        master.add("sandbox-1", Sandbox(), labels=["sandbox"], idle="after_build")
        threads = [threading.Thread(target=run, args=(master.submit(build), build)) for build in BUILDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for row in [("BUILD", "WORKER", "TIME", "OUTPUT"), *sorted(rows)]:
        print("{:10} {:10} {:8} {}".format(*row))


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    main()
