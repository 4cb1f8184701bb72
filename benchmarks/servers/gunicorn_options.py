"""Options of gunicorn that both of its servers share; all others stay at their defaults.

A file and not the command line, because older versions of gunicorn skip a name here that they do not know.
"""

import os

workers = 1
worker_connections = 100_000
accesslog = None
loglevel = "warning"
graceful_timeout = 1
certfile = os.environ.get("BENCHMARK_CERTIFICATE")  # the key is in the same file
control_socket_disable = True  # it would be one file for all arbiters of this user
