"""One process in an engine's environment, client or worker: ``python -m benchmarks.child ENGINE BACKEND PLACE``.

It reads calls from standard input, one JSON object a line, and answers each by a line. It ends when its input does, so
that nothing outlives the harness, however that ended. Standard library only: the environments share nothing else.
"""

import json
import os
import queue
import random
import sys
import threading
import time
import traceback
from importlib import metadata

from benchmarks.engines import TUNED, base, engine_class

#: A client that comes back at once would meet a worker that is still awake; users' requests come at any moment.
LONGEST_PAUSE_S = 0.05
#: Samples taken first and thrown away: connections, prepared statements, imports.
WARM_UP = 3
#: Longest wait of a client for one answer.
PATIENCE_S = 60
STOP_PATIENCE_S = 10


class Calls:
    """What the harness may ask for."""

    def __init__(self, adapter):
        self.adapter = adapter
        self.random = random.Random(7)

    def prepare(self):
        self.adapter.prepare()

    def version(self):
        return metadata.version(self.adapter.package)

    def start(self, instance, workflow, argument):
        self.adapter.start(instance, workflow, argument)

    def starts(self, prefix, count, workflow, argument, limit_s):
        """Start ``count`` instances one after another; stop early when ``limit_s`` is over."""
        began = time.monotonic()
        for number in range(count):
            self.adapter.start(f"{prefix}-{number}", workflow, argument)
            if time.monotonic() - began > limit_s:
                count = number + 1
                break
        return {"count": count, "began": began, "seconds": time.monotonic() - began}

    def start_many(self, prefix, count, workflow, argument):
        """Start ``count`` instances by as few calls as the engine needs; None if it has no call for it."""
        began = time.monotonic()
        if not self.adapter.start_many([f"{prefix}-{number}" for number in range(count)], workflow, argument):
            return None
        return {"count": count, "began": began, "seconds": time.monotonic() - began}

    def wait(self, instance):
        return self.adapter.wait(instance, PATIENCE_S)

    def latencies(self, samples, limit_s):
        """Return the seconds from the call that starts an instance to its result, for each of ``samples``."""
        return self._sample(self._start_and_wait, samples, limit_s)

    def _start_and_wait(self, number):
        self.adapter.start(f"latency-{number}", base.HELLO, "World")
        output = self.adapter.wait(f"latency-{number}", PATIENCE_S)
        assert output == "Hello, World!", output

    def open_mailbox(self, instance, messages):
        return self.adapter.open_mailbox(instance, messages)

    def round_trips(self, instance, messages, limit_s):
        """Return the seconds from sending a message to seeing the reply, for each message."""

        def send_and_see(number):
            self.adapter.send(instance, number, f"message {number}")
            reply = self.adapter.reply(instance, number, PATIENCE_S)
            assert f"message {number}" in reply, reply

        return self._sample(send_and_see, messages - WARM_UP, limit_s)

    def _sample(self, once, samples, limit_s):
        taken = []
        ends = time.monotonic() + limit_s
        for number in range(samples + WARM_UP):
            time.sleep(self.random.uniform(0, LONGEST_PAUSE_S))
            began = time.monotonic()
            once(number)
            taken.append(time.monotonic() - began)
            if time.monotonic() > ends:
                break
        return taken[WARM_UP:]

    def wait_until_waiting(self, instance, limit_s):
        """Wait for the custom status that a sequence shows when its steps are done."""
        return self.adapter.reply(instance, 0, limit_s)

    def resume(self, instance):
        """Return the seconds from sending the message that a sequence waits for to its end."""
        began = time.monotonic()
        self.adapter.send(instance, 0, "go on")
        self.adapter.wait(instance, PATIENCE_S)
        return time.monotonic() - began

    def fill_for_admin(self, instances, events):
        """Fill the database for the admin's pages; returns how many seconds it took."""
        began = time.monotonic()
        self.adapter.fill_for_admin(instances, events)
        return time.monotonic() - began

    def time_admin(self, runs):
        """Return [name, milliseconds of each run, queries, the slowest one's milliseconds] of pages and calls."""
        return self.adapter.time_admin(runs)

    def connect(self):
        self.adapter.connect()

    def work(self):
        """Start the worker; returns the moment before it began."""
        began = time.monotonic()
        self.adapter.work()
        return began


def main(arguments):
    engine, backend, place = arguments
    # Engines print and log to standard output too: the answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    adapter = engine_class(engine)(base.Store(backend, place), tuned=engine.endswith(TUNED))
    calls = Calls(adapter)
    asked = queue.SimpleQueue()
    threading.Thread(target=_read, args=[asked], daemon=True).start()
    works = False
    try:
        while (line := asked.get()) is not None:
            call = json.loads(line)
            works = works or call["name"] == "work"
            try:
                answer = {"result": getattr(calls, call["name"])(**call["arguments"])}
            except Exception:  # noqa: BLE001 - what an engine may raise is anything, and the harness reports it
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
        if works:
            adapter.stop()
    finally:
        sys.stderr.flush()
        # Threads of an engine must not hold the process.
        os._exit(0)


def _read(asked):
    """Put the lines of standard input into the queue, then None; see to it that the process ends soon after."""
    for line in sys.stdin:
        asked.put(line)
    asked.put(None)
    time.sleep(STOP_PATIENCE_S)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
