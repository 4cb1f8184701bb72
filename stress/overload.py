"""The process that ``fair`` starts: WebSockets that send as much as they can, and read everything.

Not patched by gevent: it is one loop around one epoll.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys

from benchmarks.meters import allow_files
from tests.support.rawclient import BINARY, CONTINUATION, DEFLATE, PING, TEXT, deflated, frame, upgrade_request

SEGMENT = 65536
"""Bytes of one read of the server's."""


def _segment(piece: bytes) -> bytes:
    return piece * (SEGMENT // len(piece))


DATA = {
    "messages": _segment(frame(TEXT, b"x")),
    "fragments": frame(TEXT, b"x", fin=False) + _segment(frame(CONTINUATION, b"x", fin=False)) + frame(CONTINUATION),
    "pings": _segment(frame(PING, b"x")),
    "inflating": frame(BINARY, deflated(bytes(2**18)), rsv=4) * 100,
    "nothing": b"",
}
"""What one socket sends at once."""


def main(argument: str) -> None:
    """Open the sockets, send, print "ready", and go on until the standard input ends; then print the counts."""
    port, path, count, data, again, cores = json.loads(argument)
    os.sched_setaffinity(0, cores)
    allow_files(count + 100)
    whole, sockets = DATA[data], {}
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(upgrade_request(path, DEFLATE) if data == "inflating" else upgrade_request(path))
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(1)
            assert more, f"the handshake was answered with {head!r}"
            head += more
        assert head.startswith(b"HTTP/1.1 101"), head
        sock.setblocking(False)
        sockets[sock.fileno()] = sock
    left = dict.fromkeys(sockets, whole)
    sent = received = segments = 0
    ready = False
    with select.epoll() as poll:
        poll.register(0, select.EPOLLIN)
        for number in sockets:
            poll.register(number, select.EPOLLIN | (select.EPOLLOUT if whole else 0))
        while True:
            for number, events in poll.poll():
                if number == 0:
                    print(json.dumps({"sent": sent, "received": received, "segments": segments}), flush=True)
                    return
                try:
                    if events & select.EPOLLIN:
                        more = sockets[number].recv(2**20)
                        received += len(more)
                        if not more:
                            poll.unregister(number)
                            continue
                    if events & select.EPOLLOUT:
                        taken = sockets[number].send(left[number])
                        sent += taken
                        left[number] = left[number][taken:]
                except BlockingIOError:
                    continue
                except OSError:
                    poll.unregister(number)
                    continue
                if not ready:
                    ready = True
                    print("ready", flush=True)
                if whole and not left[number]:
                    segments += 1
                    if again:
                        left[number] = whole
                    else:
                        poll.modify(number, select.EPOLLIN)


if __name__ == "__main__":
    main(sys.argv[1])
