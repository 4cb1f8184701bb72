"""The processes that ``groups`` starts: one without gevent's patches, and its children, which it forks after it has
published. All of them publish until the standard input ends, and write a line for each message::

    group sent answered answer

``sent`` and ``answered`` are times of the monotonic clock; the answer is that of ``rooms.publish()``.
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time

from .delivery import text_of
from .rooms import open_groups, publish


def main(argument: str) -> None:
    """The arguments: URL, size of a history, names of groups, messages a second of a process, children, bytes."""
    url, size, names, rate, children, most = json.loads(argument)
    groups = open_groups(url, size)
    chance = random.Random(os.getpid())

    def go_on(name: str, count: float) -> None:
        """Publish ``count`` messages."""
        number = 0
        # All processes have the same standard input, and its end is for all of them.
        while number < count and not select.select([0], [], [], chance.expovariate(rate))[0]:
            number += 1
            group, message_id = chance.choice(names), f"{name}:{number}"
            answer = publish(groups, group, text := text_of(message_id, chance.randrange(most)))
            os.write(1, f"{group} {text.split(' ')[1]} {time.monotonic()} {answer}\n".encode())

    go_on("before", 3)
    pids = []
    for number in range(children):
        pid = os.fork()
        if pid == 0:
            chance.seed(os.getpid())
            go_on(f"child{number}", float("inf"))
            os._exit(0)
        pids.append(pid)
    go_on("parent", float("inf"))
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1])
