"""One tiny echo application per server, each written as that server's documentation shows it.

All have the same paths: ``/echo`` sends every message back, ``/fanout`` sends every message to all connections of that
path, and ``/pid`` answers with the number of the process, so that the right one is measured. ``/plain`` answers a plain
HTTP request. Where there are groups of several processes, ``/group`` sends every message to all members of one, and
``/hop`` sends it back through a group.

``BENCHMARK_CERTIFICATE`` is a PEM file with key and certificate; with it the server speaks TLS.
``BENCHMARK_DEFLATE`` ("shared" or "dedicated") asks for compression, where the server can.
``BENCHMARK_REDIS`` is the URL of the Redis server that has the groups; without it they are in SQLite.
"""
