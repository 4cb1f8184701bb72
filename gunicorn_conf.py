"""gunicorn for WebSockets: ``gunicorn --config gunicorn_conf.py project.wsgi``. Copy it, and change the numbers.

Each number has its reason beside it, and every setting that is not here is better left alone. Options on the command
line win over this file. The settings of gws_middleware itself are ``GWS_*`` environment variables: docs/settings.md.
"""

from __future__ import annotations

import os


def _cores() -> int:
    """The cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# gunicorn's gevent worker, with the application wrapped: each request and each WebSocket is a greenlet.
worker_class = "gws_middleware.worker.GeventWebSocketWorker"

# One for each core: a worker that waits for one connection serves another one meanwhile, so that more of them only cost
# memory (the "2 x cores + 1" of the sync worker does not hold here). What an application keeps in memory, e.g. a list
# of connections, is each worker's own. A limit on CPU time (docker --cpus) does not show in the cores: there, and on
# shared machines, say it with WEB_CONCURRENCY.
workers = int(os.environ.get("WEB_CONCURRENCY") or _cores())

# Connections of one worker, idle and busy, HTTP and WebSocket; gunicorn's 1000 is meant for HTTP. A WebSocket holds its
# place until its view returns, or calls detach(). At the limit the worker stops accepting without a word, and new
# clients wait in the backlog: so keep it above what you expect, and below what memory allows (about 31 KB for an idle
# Django view: 10,000 are 310 MB) and what `ulimit -n` does, since each is a descriptor, and so is each database
# connection. With too few descriptors accept() fails with EMFILE, and new clients wait until some are free.
worker_connections = 10_000

# Connections that the kernel holds for us while all workers are busy: after a deploy every client comes back at once.
# The kernel cuts this at net.core.somaxconn (4096 on Linux since 5.4).
backlog = 4096

# Two things in one for this worker. How long an idle HTTP connection stays: behind a proxy that keeps connections to us
# open, it has to be longer than the proxy's own time, or requests are lost in between. And how long a client has for
# all of a request's head: gunicorn's 2 seconds are short for a phone, and 0 is no limit at all, which gives every place
# above to whoever dribbles. An open WebSocket is not concerned.
keepalive = 5

# After this many seconds without a heartbeat the worker is killed, and all of its connections with it. The heartbeat
# comes from the event loop, once a second: no WebSocket is too long for it, and no view that waits; only code that
# computes or blocks for so long without giving way.
timeout = 30

# What a worker has from "stop" to "kill". WebSockets hear 1001 (going away), or 1012 (service restart) where another
# worker comes, within a third of it, and have another third to answer. Ordinary requests and views that clean up have
# nearly all of it. It has to end before whoever stops gunicorn loses patience: systemd waits for 90 seconds, Kubernetes
# and Heroku for 30, but Docker for 10 (docker stop --time 25).
graceful_timeout = 20

# Off. Each WebSocket counts as one request, and the restart ends all the others of that worker with 1012: they come
# back in a wave, and the worker's place is empty until its last request has gone, or graceful_timeout is over. Where
# memory leaks, look for the leak; if you cannot, set it and max_requests_jitter, so that workers do not go all at once.
max_requests = 0

# Off: gunicorn would import the application before gevent patches the standard library, and what is made during that
# import, e.g. locks and thread-locals, would block the worker or be shared by all of its greenlets. Nor would a reload
# (SIGHUP) load new code.
preload_app = False

# The heartbeat is a file that each worker touches every second. In memory that never waits for a disk; on a disk the
# whole event loop does.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None

# One line for each request, to standard output. That of a WebSocket has status 101 and comes at its end, with the bytes
# that were sent on it and, as the last field, how many seconds it was open (gunicorn begins again at 0 after a day).
# Behind a proxy %(h)s is the proxy, or "-" on a unix socket, and the field before the last is the client that the proxy
# names (without a proxy, what the client says of itself). %(r)s has the query in it: keep secrets out of that.
accesslog = "-"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" "%({x-forwarded-for}i)s" %(L)s'

# gunicorn (since 25.1) opens a control socket at one path for all servers of this user, where the second takes it from
# the first. Give each a path of its own (control_socket) if you use gunicornc.
control_socket_disable = True
