"""One tiny echo application per server, each written as that server's own documentation would have it.

All of them know the same paths: ``/echo`` answers every message with itself, ``/fanout`` sends every message
to everybody on that path, and ``/pid`` answers with the number of the process, so that the right one is
measured.
"""
