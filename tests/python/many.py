"""Many threads, many builds, an event loop, and garbage: nothing is lost, nothing grows."""

import asyncio
import gc
import os
import threading
import unittest

import latent_worker as lw
from latent_worker import Build, Master
from support import PATIENCE, Clean, Quick, held


class Many(Clean):
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
            loop = asyncio.get_running_loop()
            with Master() as master, lw.Inbox() as inbox:
                worker = master.add("w", Quick())
                worker.pause()
                events, failed, kinds = master.events(), 0, []
                numbers = {master.submit_to(Build("b"), inbox) for _ in range(5)}
                numbers.add(master.submit_to(Build("b", labels=["nobody"]), inbox))
                loop.call_later(0.2, worker.unpause)
                while numbers:
                    number, answer = await asyncio.wait_for(inbox.next(), PATIENCE)
                    numbers.remove(number)
                    if isinstance(answer, lw.Error):
                        failed += 1
                    else:
                        answer.succeed()
                self.assertEqual(failed, 1)
                with self.assertRaises(lw.TimedOut):
                    inbox.take(0)

                async def watch():
                    async for event in events:
                        kinds.append(event.kind)
                        if event.kind == "paused":
                            return

                watching = asyncio.create_task(watch())
                loop.call_later(0.2, worker.pause)
                await asyncio.wait_for(watching, PATIENCE)
                self.assertEqual(kinds.count("build_finished"), 6)

        asyncio.run(run())

    def test_garbage_is_collected_anywhere(self):
        """Also in the middle of the binding itself, where it must not wait for a driver or for a lock."""

        class Knot(Quick):
            def start(self, start):
                self.self = [self]
                return super().start(start)

        def work():
            for _ in range(30):
                master = Master()
                knot = [master, master.add("w", Knot()), master.submit(Build("b"))]
                knot.append(knot)
                knot[2].wait(PATIENCE).succeed()

        thresholds = gc.get_threshold()
        gc.set_threshold(1, 1, 1)
        try:
            threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
            [thread.start() for thread in threads]
            [thread.join(PATIENCE) for thread in threads]
            self.assertFalse(any(thread.is_alive() for thread in threads))
        finally:
            gc.set_threshold(*thresholds)

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
            worker = master.add("w", driver, idle="after_build")
            cycles(2_000)
            worker.insubstantiate(timeout=PATIENCE)
            before, held_before = resident(), held()
            cycles(10_000)
            grown = resident() - before
            worker.insubstantiate(timeout=PATIENCE)
            self.assertEqual(held(), held_before)
            [table] = [table for table in lw._Table._kept.values() if table.driver is driver]
            self.assertEqual((table.instances, lw._Visit.all), ({}, set()))
        self.assertEqual((driver.started, driver.stopped), (12_000, 12_000))
        self.assertLess(grown, 4 << 20)


if __name__ == "__main__":
    unittest.main()
