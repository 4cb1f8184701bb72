"""The process that ``responsive`` starts: WebSockets whose messages the worker under test echoes.

Not patched by gevent: it is one loop around one epoll, the load generator of ``benchmarks``.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

from benchmarks.frames import TEXT_64
from benchmarks.lanes import Lane, echo_lanes, opened
from benchmarks.load import saturate
from benchmarks.meters import allow_files, cpu_seconds

TIMEOUT = 30.0


def paced(lanes: list[Lane], interval: float) -> dict[str, float]:
    """Each lane sends one message per ``interval``, in turn and evenly spread, until the standard input ends.

    A lane whose last echo is missing at its turn sends nothing: then the rate is not reached.
    """
    by_fd = {lane.fd: lane for lane in lanes}
    in_flight: dict[int, float] = {}
    echoes, worst, turn = 0, 0.0, 0
    began = time.perf_counter()
    with select.epoll() as poll:
        poll.register(0, select.EPOLLIN)
        for lane in lanes:
            poll.register(lane.fd, select.EPOLLIN)
        over = False
        while not over or in_flight:
            now = time.perf_counter()
            while not over and now >= began + turn * interval / len(lanes):
                lane = lanes[turn % len(lanes)]
                turn += 1
                if lane.fd not in in_flight:
                    in_flight[lane.fd] = now
                    assert lane.send()
            left = TIMEOUT if over else max(0.0, began + turn * interval / len(lanes) - now)
            ready = poll.poll(left)
            assert ready or not over, f"{len(in_flight)} echoes did not come within {TIMEOUT:g} s"
            for fd, _ in ready:
                if fd == 0:
                    over = True
                    ended = time.perf_counter()
                    poll.unregister(0)
                elif by_fd[fd].receive():
                    echoes += 1
                    worst = max(worst, time.perf_counter() - in_flight.pop(fd))
    return {"echoes": echoes, "wanted": (ended - began) * len(lanes) / interval, "worst": worst}


def main(argument: str) -> None:
    """Open the sockets, print "ready", and send until the standard input ends; then print the results."""
    port, sockets, interval, pid, cores = json.loads(argument)
    os.sched_setaffinity(0, cores)
    allow_files(sockets + 100)
    with opened(("127.0.0.1", port), "/echo", sockets) as connections:
        lanes = echo_lanes(connections, TEXT_64)
        saturate(lanes, 0)
        print("ready", flush=True)
        spent, began = cpu_seconds(pid), time.perf_counter()
        found: dict[str, float] = {"echoes": 0, "wanted": 0}
        if interval is None:
            sys.stdin.read()
        elif interval:
            found = paced(lanes, interval)
        else:
            while not select.select([0], [], [], 0)[0]:
                found["echoes"] += saturate(lanes, 0.2)
        found["seconds"] = time.perf_counter() - began
        found["cpu"] = cpu_seconds(pid) - spent
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
