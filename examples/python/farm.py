"""A farm: a list of builds on workers of this machine, and on a kind of worker that is written here in Python.

Run it as `python3 farm.py`; see the README beside it.
"""

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

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


def run(ticket, build):
    begun = time.monotonic()
    try:
        with ticket.wait(timeout=60) as lease:
            worker = lease.worker
            said = lease.run("sleep 0.2; echo $N in $(basename $(pwd))", env={"N": build.name}).out.decode()
    except BuildFailed as error:
        worker, said = "-", str(error)
    return build.name, worker, f"{time.monotonic() - begun:.2f} s", said.strip()


def main():
    with Master() as master, ThreadPoolExecutor(len(BUILDS)) as pool:
        for number in range(1, 3):
            master.add_local(f"local-{number}", labels=["shell"])
        master.add("sandbox-1", Sandbox(), labels=["sandbox"], idle="after_build")
        rows = list(pool.map(run, [master.submit(build) for build in BUILDS], BUILDS))
    for row in [("BUILD", "WORKER", "TIME", "OUTPUT"), *sorted(rows)]:
        print("{:10} {:10} {:8} {}".format(*row))


if __name__ == "__main__":
    main()
