"""The states of a WebSocket: what moves between them, and what each method does in each of them.

==========  =============================================  ======================================================
state       meaning                                        left by
==========  =============================================  ======================================================
PENDING     the handshake waits for the application        accept(): ACCEPTING; an HTTP response: ANSWERED;
                                                           close(), abort(): REFUSED
ACCEPTING   the 101 is being written                       written: OPEN; the peer has disconnected: LOST;
                                                           another error: ANSWERED
ANSWERED    an HTTP response was started, and not the 101  close(), abort(): REFUSED
OPEN        messages go both ways                          close(), a close frame or a violation of the peer, the
                                                           end of the socket: CLOSED; abort(), ``send_timeout``, a
                                                           write that the kernel refuses: CLOSING
CLOSING     nothing can be sent any more; what was         close(), the end of the socket: CLOSED
            received is still delivered
CLOSED      nothing is sent or received any more           (final)
REFUSED     closed before the 101                          (final)
LOST        the peer disconnected before the 101           (final)
==========  =============================================  ======================================================

What receives the messages is a second, independent state: the view, or after ``detach()`` the callbacks, whose own
three states are in ``callbacks``.

What the methods of an attached WebSocket do:

==================  ========  =========  ========  ========  ========  ========  =======  ========
method              PENDING   ACCEPTING  ANSWERED  OPEN      CLOSING   CLOSED    REFUSED  LOST
==================  ========  =========  ========  ========  ========  ========  =======  ========
accept()            accepts   error      error     error     error     error     error    closed
receive()           accepts   error      error     waits     waits     end       end      end
next()              accepts   error      error     waits     waits     stop      stop     stop
receive_json()      accepts   error      error     waits     waits     closed    closed   closed
wait()              accepts   error      error     waits     waits     None      None     None
count_messages()    accepts   error      error     0         0         0         0        0
send()              accepts   error      error     sends     closed    closed    closed   closed
send_json()         accepts   error      error     sends     closed    closed    closed   closed
ping()              accepts   error      error     sends     closed    closed    closed   closed
offer()             False     False      False     sends     False     False     False    False
detach()            accepts   error      error     detaches  detaches  ends      ends     ends
limits()            sets      sets       sets      error     error     error     sets     sets
close()             REFUSED   CLOSED     REFUSED   CLOSED    CLOSED    CLOSED    REFUSED  LOST
abort()             REFUSED   CLOSED     REFUSED   CLOSED    CLOSED    CLOSED    REFUSED  LOST
accepted            False     False      False     True      True      True      False    False
closed              accepts   False      True      False     True      True      True     True
close_code          None      None       None      None      code      code      code     code
==================  ========  =========  ========  ========  ========  ========  =======  ========

"accepts": answers with 101, and goes on as in OPEN. "closed": raises ConnectionClosed. "error": raises RuntimeError.
"end": returns None the first time and raises ConnectionClosed after that. "stop": the iteration ends. "ends": detaches,
and ``on_close`` is called. A state: the one that the WebSocket has after the call and a turn of the event loop; in
ACCEPTING the call takes effect when the 101 has been written.
"""

from __future__ import annotations

__all__ = [
    "ACCEPTING",
    "ANSWERED",
    "CLOSED",
    "CLOSING",
    "LOST",
    "NAMES",
    "OPEN",
    "PENDING",
    "REFUSED",
    "has_ended",
    "is_accepted",
]

PENDING, ACCEPTING, ANSWERED, OPEN, CLOSING, CLOSED, REFUSED, LOST = range(8)
NAMES = ("PENDING", "ACCEPTING", "ANSWERED", "OPEN", "CLOSING", "CLOSED", "REFUSED", "LOST")


def is_accepted(state: int) -> bool:
    """Whether the 101 has been sent."""
    return OPEN <= state <= CLOSED


def has_ended(state: int) -> bool:
    """Whether nothing is sent or received any more."""
    return state >= CLOSED
