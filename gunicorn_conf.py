"""gunicorn for WebSockets: ``gunicorn --config gunicorn_conf.py project.wsgi``. Copy it, and change the numbers.

The reason for each value stands above it. A setting that is not here keeps gunicorn's default. Options on the command
line win over this file. The settings of gws_middleware itself are ``GWS_*`` environment variables: docs/settings.md.
"""

from __future__ import annotations

import os


def _cores() -> int:
    """The cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# gunicorn's gevent worker, with the application wrapped: each request and each WebSocket is a greenlet.
worker_class = "gws_middleware.worker.GeventWebSocketWorker"

# One for each core. A worker that waits for one connection serves the others meanwhile, so more workers than cores only
# cost memory (the "2 x cores + 1" of the sync worker does not apply). What an application keeps in memory, e.g. a list
# of connections, belongs to one worker. A limit on CPU time (docker --cpus) does not change the number of cores: set
# WEB_CONCURRENCY there, and on shared machines.
workers = int(os.environ.get("WEB_CONCURRENCY") or _cores())

# Connections of one worker: idle and busy, HTTP and WebSocket. gunicorn's 1000 is meant for HTTP. A WebSocket counts
# until its view returns or calls detach(). At the limit the worker stops accepting and logs nothing, and new clients
# wait in the backlog: so keep it above what you expect, and below what memory allows (about 31 KB for an idle Django
# view: 10,000 are 310 MB) and below `ulimit -n`, since each connection is a descriptor, and so is each database
# connection. With too few descriptors accept() fails with EMFILE, and new clients wait until some are free.
worker_connections = 10_000

# Connections that the kernel holds while all workers are busy: after a deploy every client reconnects at once. The
# kernel cuts this at net.core.somaxconn (4096 on Linux since 5.4).
backlog = 4096

# Two timeouts in one for this worker. First, how long an idle HTTP connection stays open: with a proxy that keeps
# connections open, it has to be longer than the proxy's own timeout, or requests are lost. Second, how long a client
# has for the whole head of a request: gunicorn's 2 seconds are short for a phone, and 0 is no limit at all, so that
# clients which send a byte now and then could take every connection above. An open WebSocket is not affected.
keepalive = 5

# A worker that sends no heartbeat for this many seconds is killed, with all of its connections. The heartbeat comes
# from the event loop, once a second: no WebSocket is too long for it, and no view that waits; only code that computes
# or blocks for so long without letting the event loop run.
timeout = 30

# What a worker has between "stop" and "kill". WebSockets are sent a close frame, 1012 (service restart) unless
# shutdown_close_code says otherwise, within a third of it, and their peers have another third to answer. Ordinary
# requests and views that clean up have nearly all of it. It has to be shorter than the timeout of what stops gunicorn:
# 90 seconds in systemd, 30 in Kubernetes and Heroku, but 10 in Docker (docker stop --time 25).
graceful_timeout = 20

# Off. Each WebSocket counts as one request, and the restart ends all others of that worker with 1012: they reconnect at
# once, and there is one worker less until its last request has ended, or graceful_timeout is over. Where memory leaks,
# look for the leak; if you cannot, set it together with max_requests_jitter, so that workers do not restart at the same
# time.
max_requests = 0

# Off: gunicorn would import the application before gevent patches the standard library. What is made during that
# import, e.g. locks and thread-locals, would then block the worker or be shared by all of its greenlets. Nor would a
# reload (SIGHUP) load new code.
preload_app = False

# The heartbeat is a file that each worker touches every second. In memory that never waits for a disk; on a disk the
# whole event loop may wait.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None

# One line for each request, to standard output. The line of a WebSocket has status 101 and is written at its end, with
# the bytes that were sent on it and, as the last field, how many seconds it was open (gunicorn starts again at 0 after
# a day). Behind a proxy %(h)s is the proxy, or "-" on a unix socket, and the field before the last is the client that
# the proxy names (without a proxy, what the client states itself). %(r)s contains the query: keep secrets out of that.
accesslog = "-"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" "%({x-forwarded-for}i)s" %(L)s'

# gunicorn (since 25.1) opens a control socket at one path for all servers of this user, and the second server takes it
# from the first. Give each a path of its own (control_socket) if you use gunicornc.
control_socket_disable = True
