/* The base classes of Turns, Transport and WebSocket in C. Rule: each method does the same as its twin of that name in
 * fastpath.py, which says why; tests/test_parity.py compares the two.
 *
 * The slow path is methods of the subclass, called by name. Attributes may be deleted or be of any type, as in Python:
 * what is used as a list is checked first, and what is called is kept alive during the call, because a call may switch
 * to another greenlet, which changes the object.
 */

#include "../_native.h"

#include <time.h>

#define STATE_OPEN 3 /* states.OPEN: checked when the module is loaded */
#define LASTS 0.005  /* seconds, fastpath.LASTS */

/* ---- Calls by name ---- */

/* Interned once: an extension that runs beside greenlets is loaded into one interpreter only. */
#define NAMES(X)                                                                                              \
    X(recv_into) X(send) X(iteration) X(_data_received) X(_read_failed) X(_lost) X(_write_failed) X(_keep)    \
    X(_flush_later) X(switch) X(_receive) X(_relax) X(_check_open) X(_wait_writable) X(encode)                \
    X(write_parts) X(_too_slow) X(feed) X(eventful) X(_eventful) X(_put) X(start) X(_give_way)                \
    X(call) X(offer) X(_wake_later) X(frame) X(join)

NAMES(NATIVE_DECLARE_NAME)

static PyObject *getcurrent; /* gevent's */
static PyObject *prepared_type; /* PreparedMessage */
static PyTypeObject *turn_type, *transport_type;

/* object.name(first, second); arguments that are NULL are left out. */
static PyObject *
call_method(PyObject *object, PyObject *name, PyObject *first, PyObject *second)
{
    if (object == NULL) {
        return PyErr_Format(PyExc_AttributeError, "there is no object to call %R of", name);
    }
    PyObject *args[] = {object, first, second};
    Py_INCREF(object);
    PyObject *result = PyObject_VectorcallMethod(name, args, first == NULL ? 1 : second == NULL ? 2 : 3, NULL);
    Py_DECREF(object);
    return result;
}

/* The same where the result does not matter; -1 with an exception. */
static int
call_method_void(PyObject *object, PyObject *name, PyObject *first, PyObject *second)
{
    PyObject *result = call_method(object, name, first, second);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The same with a number as the last argument. */
static int
call_method_with_size(PyObject *object, PyObject *name, PyObject *first, Py_ssize_t size)
{
    PyObject *number = PyLong_FromSsize_t(size);
    int failed = number == NULL ? -1 : call_method_void(object, name, first, number);
    Py_XDECREF(number);
    return failed;
}

/* Whether an attribute that is read is set; if not, an AttributeError is raised, as in Python. */
static inline int
is_there(PyObject *object, const char *name)
{
    if (object == NULL) {
        PyErr_Format(PyExc_AttributeError, "%s is not set", name);
    }
    return object != NULL;
}

/* The number in `object`, whose reference is taken; -1 with an exception. No size is negative. */
static Py_ssize_t
size_from_object(PyObject *object)
{
    if (object == NULL) {
        return -1;
    }
    Py_ssize_t size = PyLong_AsSsize_t(object);
    Py_DECREF(object);
    if (size < 0 && !PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "%zd is no size", size);
        size = -1;
    }
    return size;
}

/* The OSError that has been raised, or NULL where it is another one, which stays raised. */
static PyObject *
fetch_os_error(void)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return NULL;
    }
    return native_take_exception();
}

/* Whether the object is of this type. All that come are of one subclass, which is remembered in `seen`: to walk over
 * its bases for each message costs more than all else that is done with the object. */
static inline int
is_instance(PyObject *object, PyTypeObject *type, PyTypeObject **seen)
{
    if (object == NULL || (Py_TYPE(object) != *seen && !PyObject_TypeCheck(object, type))) {
        return 0;
    }
    if (Py_TYPE(object) != *seen) {
        Py_XDECREF(*seen);
        *seen = (PyTypeObject *)Py_NewRef(Py_TYPE(object));
    }
    return 1;
}

/* ---- The base of Turns ---- */

typedef struct {
    PyObject_HEAD
    PyObject *polls;
    double began;
    long long iteration;
    unsigned long thread;
} Turn;

/* The clock of the turns. Linux has one that takes a fifth of the time to read, because it stands still between two
 * ticks of the kernel (1 to 10 ms). It is late by a tick, and on some virtual machines by more. So all moments are of
 * one clock, by which a turn can be over a tick early or late; where a tick is longer than a turn, the exact clock is
 * read. */
static clockid_t turn_clock = CLOCK_MONOTONIC;

static void
choose_turn_clock(void)
{
#ifdef CLOCK_MONOTONIC_COARSE
    struct timespec tick;
    if (clock_getres(CLOCK_MONOTONIC_COARSE, &tick) == 0 && tick.tv_sec == 0 && tick.tv_nsec * 1e-9 < LASTS) {
        turn_clock = CLOCK_MONOTONIC_COARSE;
    }
#endif
}

static double
turn_now(void)
{
    struct timespec now;
    clock_gettime(turn_clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The number of the poll; -1 with an exception. */
static long long
turn_number(Turn *self)
{
    PyObject *iteration = self->polls == NULL ? NULL : PyObject_GetAttr(self->polls, name_iteration);
    long long number = iteration == NULL ? -1 : PyLong_AsLongLong(iteration);
    Py_XDECREF(iteration);
    if (number == -1 && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_AttributeError, "there is nothing that counts the polls");
    }
    return number;
}

static inline int
turn_runs_elsewhere(Turn *self)
{
    return PyThread_get_thread_ident() != self->thread;
}

/* 1 where the turn has lasted too long, or in another thread; -1 with an exception. */
static int
turn_has_lasted(Turn *self)
{
    if (turn_runs_elsewhere(self)) {
        return 1;
    }
    double now = turn_now();
    if (now - self->began < LASTS) {
        return 0;
    }
    long long iteration = turn_number(self);
    if (iteration == self->iteration || iteration == -1) {
        return iteration == -1 ? -1 : 1;
    }
    self->iteration = iteration;
    self->began = now;
    return 0;
}

PyDoc_STRVAR(turn_begin_doc,
"begin($self, /)\n--\n\n"
"A turn begins, in the current poll.");

static PyObject *
turn_begin(Turn *self, PyObject *Py_UNUSED(ignored))
{
    long long iteration = turn_number(self);
    if (iteration == -1) {
        return NULL;
    }
    self->iteration = iteration;
    self->began = turn_now();
    Py_RETURN_NONE;
}

/* The turn in an attribute of another object; NULL with an exception. */
static inline Turn *
turn_from_object(PyObject *object)
{
    static PyTypeObject *seen;
    if (!is_instance(object, turn_type, &seen)) {
        PyErr_SetString(PyExc_AttributeError, "there is no turn");
        return NULL;
    }
    return (Turn *)object;
}

PyDoc_STRVAR(turn_is_over_doc,
"is_over($self, /)\n--\n\n"
"Whether this turn has lasted for LASTS seconds. In another thread than the loop's it always has.\n"
"\n"
"The clock is read each time, the number of the poll only when that much time has passed. So what follows a poll\n"
"directly may last twice as long.");

static PyObject *
turn_is_over(Turn *self, PyObject *Py_UNUSED(ignored))
{
    int over = turn_has_lasted(self);
    return over < 0 ? NULL : PyBool_FromLong(over);
}

PyDoc_STRVAR(turn_is_foreign_doc,
"is_foreign($self, /)\n--\n\n"
"Whether the caller runs in another thread of the operating system than the loop.");

static PyObject *
turn_is_foreign(Turn *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(turn_runs_elsewhere(self));
}

/* ---- The base of Transport ---- */

typedef struct {
    PyObject_HEAD
    PyObject *channel, *turn, *owner, *buffer, *window, *outbox;
    Py_ssize_t outbox_size;
    long long bytes_received, bytes_sent, write_turn;
    char flush_due;
} Transport;

PyDoc_STRVAR(transport_readable_doc,
"_readable($self, /)\n--\n\n"
"Runs in the hub.");

static PyObject *
transport_readable(Transport *self, PyObject *Py_UNUSED(ignored))
{
    if (!is_there(self->window, "_window")) {
        return NULL;
    }
    Py_ssize_t size = size_from_object(call_method(self->channel, name_recv_into, self->window, NULL));
    if (size > 0) {
        self->bytes_received += size;
        if (!is_there(self->buffer, "_buffer")) {
            return NULL;
        }
        return native_none(call_method_with_size(self->owner, name__data_received, self->buffer, size));
    }
    if (size == 0) {
        return native_none(call_method_void((PyObject *)self, name__lost, NULL, NULL));
    }
    PyObject *error = fetch_os_error();
    if (error == NULL) {
        return NULL;
    }
    int failed = call_method_void((PyObject *)self, name__read_failed, error, NULL);
    Py_DECREF(error);
    return native_none(failed);
}

/* queue() */
static int
transport_append(Transport *self, PyObject *data)
{
    Py_ssize_t size = PyObject_Length(data);
    if (size < 0) {
        return -1;
    }
    self->bytes_sent += size;
    if (!is_there(self->outbox, "_outbox")) {
        return -1;
    }
    if (!PyList_CheckExact(self->outbox)) {
        PyErr_SetString(PyExc_TypeError, "the outbox is a list");
        return -1;
    }
    if (PyList_Append(self->outbox, data) < 0) {
        return -1;
    }
    self->outbox_size += size;
    return self->flush_due ? 0 : call_method_void((PyObject *)self, name__flush_later, NULL, NULL);
}

/* The outbox is empty and nothing has been sent in this turn. */
static int
transport_send_now(Transport *self, PyObject *data)
{
    Py_ssize_t size = PyObject_Length(data);
    if (size < 0) {
        return -1;
    }
    self->bytes_sent += size;
    Py_ssize_t sent = size_from_object(call_method(self->channel, name_send, data, NULL));
    if (sent == size) {
        return 0;
    }
    if (sent >= 0) {
        return call_method_with_size((PyObject *)self, name__keep, data, sent);
    }
    PyObject *error = fetch_os_error();
    if (error == NULL) {
        return -1;
    }
    int failed = call_method_void((PyObject *)self, name__write_failed, data, error);
    Py_DECREF(error);
    return failed;
}

/* write() */
static int
transport_send(Transport *self, PyObject *data)
{
    if (self->outbox_size) {
        return transport_append(self, data);
    }
    Turn *turn = turn_from_object(self->turn);
    long long number = turn == NULL ? -1 : turn_number(turn);
    if (number == -1) {
        return -1;
    }
    if (number == self->write_turn) {
        return transport_append(self, data);
    }
    self->write_turn = number;
    return transport_send_now(self, data);
}

PyDoc_STRVAR(transport_queue_doc,
"queue($self, data, /)\n--\n\n"
"Send a frame when the turn ends, because more is about to follow.");

static PyObject *
transport_queue(Transport *self, PyObject *data)
{
    return native_none(transport_append(self, data));
}

PyDoc_STRVAR(transport_write_doc,
"write($self, data, /)\n--\n\n"
"Send a frame without waiting.\n"
"\n"
"One that finds the outbox empty goes to the kernel at once; those that follow in the same turn of the loop are\n"
"joined and leave together when it ends.");

static PyObject *
transport_write(Transport *self, PyObject *data)
{
    return native_none(transport_send(self, data));
}

/* ---- The base of WebSocket ---- */

typedef struct {
    PyObject_HEAD
    PyObject *engine, *transport, *hub, *turn, *reader, *callbacks, *inbox;
    Py_ssize_t high_water, send_limit;
    long long messages_received, messages_sent;
    int state;
    char paused, end_delivered, holds, plain;
} WebSocket;

static const NativeSignature receive_signature = {"receive", 0, 0, 1, {"timeout"}};
static const NativeSignature send_signature = {"send", 0, 1, 2, {"message", "binary"}};
static const NativeSignature offer_signature = {"offer", 0, 1, 1, {"message"}};

#define IS_SET(object) ((object) != NULL && (object) != Py_None)

/* How many messages wait; -1 with an exception. */
static Py_ssize_t
websocket_inbox_count(WebSocket *self)
{
    if (!is_there(self->inbox, "_inbox")) {
        return -1;
    }
    if (!PyList_CheckExact(self->inbox)) {
        PyErr_SetString(PyExc_TypeError, "the inbox is a list");
        return -1;
    }
    return PyList_GET_SIZE(self->inbox);
}

/* Once this turn has lasted too long, let the loop poll first. 1: the caller runs in another thread, and nothing was
 * done; -1 with an exception. */
static int
websocket_give_way(WebSocket *self)
{
    Turn *turn = turn_from_object(self->turn);
    int over = turn == NULL ? -1 : turn_has_lasted(turn);
    if (over <= 0) {
        return over;
    }
    return turn_runs_elsewhere(turn) ? 1 : call_method_void((PyObject *)self, name__give_way, NULL, NULL);
}

/* Let the loop run until another greenlet switches back to this one. */
static int
websocket_wait(WebSocket *self)
{
    PyObject *current = PyObject_CallNoArgs(getcurrent);
    if (current == NULL) {
        return -1;
    }
    Py_XSETREF(self->reader, current);
    int failed = call_method_void(self->hub, name_switch, NULL, NULL);
    Py_XSETREF(self->reader, Py_NewRef(Py_None));
    return failed;
}

static PyObject *
websocket_take_message(WebSocket *self)
{
    Py_ssize_t count = websocket_inbox_count(self);
    PyObject *inbox = self->inbox;
    if (count <= 0) {
        return count < 0 ? NULL : call_method((PyObject *)self, name__receive, Py_None, NULL);
    }
    PyObject *message = Py_NewRef(PyList_GET_ITEM(inbox, count - 1));
    if (PyList_SetSlice(inbox, count - 1, count, NULL) < 0
        || (self->paused && call_method_void((PyObject *)self, name__relax, NULL, NULL) < 0)) {
        Py_CLEAR(message);
    }
    return message;
}

static PyObject *
websocket_receive_within(WebSocket *self, PyObject *timeout)
{
    Py_ssize_t count = websocket_inbox_count(self);
    if (count > 0) {
        /* Before a message is taken: a caller that is cut off in its wait has lost none. In another thread _give_way()
         * raises, as in Python. */
        int foreign = websocket_give_way(self);
        if (foreign < 0 || (foreign && call_method_void((PyObject *)self, name__give_way, NULL, NULL) < 0)) {
            return NULL;
        }
        count = websocket_inbox_count(self);
    }
    if (count < 0 || !is_there(self->callbacks, "_callbacks")) {
        return NULL;
    }
    if (count == 0 || IS_SET(self->callbacks)) {
        Turn *turn = turn_from_object(self->turn);
        if (turn == NULL || !is_there(self->reader, "_reader")) {
            return NULL;
        }
        if (timeout != Py_None || self->state != STATE_OPEN || IS_SET(self->reader) || IS_SET(self->callbacks)
            || self->holds || turn_runs_elsewhere(turn)) {
            return call_method((PyObject *)self, name__receive, timeout, NULL);
        }
        if (websocket_wait(self) < 0) {
            return NULL;
        }
    }
    return websocket_take_message(self);
}

PyDoc_STRVAR(websocket_receive_doc,
"receive($self, /, timeout=None)\n--\n\n"
"The next message. Waits for one.\n"
"\n"
"Args:\n"
"    timeout: Seconds to wait at most; None for no limit.\n"
"\n"
"Returns:\n"
"    ``str`` for a text message, ``bytes`` for a binary one (RFC 6455 5.6). None, once, when the connection has\n"
"    ended.\n"
"\n"
"Raises:\n"
"    ConnectionClosed: The connection has ended, and None was returned before.\n"
"    TimeoutError: No message came in time. The connection stays usable.\n"
"    RuntimeError: Another greenlet is waiting here, the WebSocket is detached, or the caller runs in another\n"
"        thread of the operating system.");

static PyObject *
websocket_receive(WebSocket *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *values[] = {Py_None};
    if (native_arguments(&receive_signature, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    return websocket_receive_within(self, values[0]);
}

/* Without a message and without an exception the loop ends. */
static PyObject *
websocket_next(WebSocket *self)
{
    if (self->end_delivered) {
        Py_ssize_t count = websocket_inbox_count(self);
        if (count <= 0) {
            return NULL;
        }
    }
    PyObject *message = websocket_receive_within(self, Py_None);
    if (message == Py_None) {
        Py_CLEAR(message);
    }
    return message;
}

/* The transport as our struct; NULL with an exception. Its methods are then called without a lookup by name. */
static Transport *
websocket_transport(WebSocket *self)
{
    static PyTypeObject *seen;
    if (!is_instance(self->transport, transport_type, &seen)) {
        PyErr_SetString(PyExc_AttributeError, "there is no transport");
        return NULL;
    }
    return (Transport *)self->transport;
}

static int
websocket_send_message(WebSocket *self, Transport *transport, PyObject *message, PyObject *binary)
{
    if (transport->outbox_size > self->high_water
        && call_method_void((PyObject *)self, name__wait_writable, (PyObject *)transport, NULL) < 0) {
        return -1;
    }
    PyObject *frame = call_method(self->engine, name_encode, message, binary);
    if (frame == NULL) {
        return -1;
    }
    self->messages_sent++;
    int failed;
    if (!PyBytes_CheckExact(frame)) {
        failed = call_method_void((PyObject *)transport, name_write_parts, frame, NULL);
    }
    else {
        Py_ssize_t count = websocket_inbox_count(self);
        /* Where more of a burst waits, its answers leave together. */
        failed = count < 0 ? -1 : count ? transport_append(transport, frame) : transport_send(transport, frame);
    }
    Py_DECREF(frame);
    return failed;
}

/* The method of that name, in the thread of the loop; `second` may be NULL. */
static PyObject *
websocket_call_in_loop(WebSocket *self, PyObject *name, PyObject *first, PyObject *second)
{
    PyObject *method = PyObject_GetAttr((PyObject *)self, name), *result = NULL;
    if (method != NULL) {
        PyObject *args[] = {self->turn, method, first, second};
        result = PyObject_VectorcallMethod(name_call, args, second == NULL ? 3 : 4, NULL);
        Py_DECREF(method);
    }
    return result;
}

PyDoc_STRVAR(websocket_send_doc,
"send($self, /, message, binary=None)\n--\n\n"
"Send a message. Waits while more than ``send_high_water`` bytes wait for the peer to read.\n"
"\n"
"May be called in any thread of the operating system.\n"
"\n"
"Args:\n"
"    message: ``str`` is sent as text, bytes are sent as binary, a number as text.\n"
"    binary: True or False to choose the kind of message instead.\n"
"\n"
"Raises:\n"
"    ConnectionClosed: The connection has ended, or the peer read nothing for ``send_timeout`` seconds.\n"
"    TypeError: This is not a message.\n"
"    ValueError: The text cannot be encoded, or the bytes are not UTF-8.");

static PyObject *
websocket_send(WebSocket *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *values[] = {NULL, Py_None};
    if (native_arguments(&send_signature, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    int foreign = websocket_give_way(self);
    if (foreign) {
        PyObject *result = foreign < 0 ? NULL : websocket_call_in_loop(self, name_send, values[0], values[1]);
        Py_XDECREF(result);
        return native_none(result == NULL);
    }
    if (self->state != STATE_OPEN && call_method_void((PyObject *)self, name__check_open, NULL, NULL) < 0) {
        return NULL;
    }
    Transport *transport = websocket_transport(self);
    if (transport == NULL) {
        return NULL;
    }
    Py_INCREF(transport);
    int failed = websocket_send_message(self, transport, values[0], values[1]);
    Py_DECREF(transport);
    return native_none(failed);
}

/* The frame of a message for this connection; NULL with an exception. */
static PyObject *
websocket_encode(WebSocket *self, PyObject *message)
{
    if (self->plain && (PyObject *)Py_TYPE(message) == prepared_type) {
        return PyObject_GetAttr(message, name_frame);
    }
    PyObject *frame = call_method(self->engine, name_encode, message, NULL);
    if (frame != NULL && !PyBytes_CheckExact(frame)) { /* a large one comes in two parts */
        PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
        PyObject *joined = empty == NULL ? NULL : call_method(empty, name_join, frame, NULL);
        Py_XDECREF(empty);
        Py_SETREF(frame, joined);
    }
    return frame;
}

/* 1: sent; 0: the peer is too slow; -1: an exception. */
static int
websocket_offer_frame(WebSocket *self, Transport *transport, PyObject *frame)
{
    if (transport->outbox_size > 0) {
        Py_ssize_t size = PyObject_Length(frame);
        if (size < 0) {
            return -1;
        }
        if (transport->outbox_size + size > self->send_limit) {
            return call_method_void((PyObject *)self, name__too_slow, NULL, NULL);
        }
    }
    if (transport_send(transport, frame) < 0) {
        return -1;
    }
    self->messages_sent++;
    return 1;
}

PyDoc_STRVAR(websocket_offer_doc,
"offer($self, /, message)\n--\n\n"
"Send a message without ever waiting for the peer.\n"
"\n"
"A peer with more than ``send_limit`` bytes unread is too slow: its connection is closed with 1013. A greenlet\n"
"that sends on one connection without a pause lets the event loop run now and then. May be called in any thread\n"
"of the operating system.\n"
"\n"
"Args:\n"
"    message: A message, encoded for this connection alone, or one that ``prepare()`` has made ready for many\n"
"        connections.\n"
"\n"
"Returns:\n"
"    False when the connection is not open.\n"
"\n"
"Raises:\n"
"    TypeError: This is not a message.");

static PyObject *
websocket_offer(WebSocket *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *values[] = {NULL};
    if (native_arguments(&offer_signature, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    int foreign = websocket_give_way(self);
    if (foreign) {
        return foreign < 0 ? NULL : websocket_call_in_loop(self, name_offer, values[0], NULL);
    }
    if (self->state != STATE_OPEN) {
        Py_RETURN_FALSE;
    }
    PyObject *frame = websocket_encode(self, values[0]);
    Transport *transport = frame == NULL ? NULL : websocket_transport(self); /* encode() may run any code */
    int sent = -1;
    if (transport != NULL) {
        Py_INCREF(transport);
        sent = websocket_offer_frame(self, transport, frame);
        Py_DECREF(transport);
    }
    Py_XDECREF(frame);
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}

/* Whole messages and nothing else have come. */
static int
websocket_put(WebSocket *self, PyObject *messages)
{
    Py_ssize_t count = websocket_inbox_count(self);
    if (count < 0) {
        return -1;
    }
    if (count > 0 || PyList_GET_SIZE(messages) != 1) {
        return call_method_void((PyObject *)self, name__put, messages, NULL);
    }
    self->messages_received++;
    Py_XSETREF(self->inbox, Py_NewRef(messages));
    return 0;
}

/* Wake what takes the messages. Switching runs the view until it waits again: nothing may follow. */
static int
websocket_wake(WebSocket *self)
{
    if (!is_there(self->reader, "_reader")) {
        return -1;
    }
    if (self->reader != Py_None) {
        Turn *turn = turn_from_object(self->turn);
        int over = turn == NULL ? -1 : turn_has_lasted(turn);
        if (over != 0) {
            return over < 0 ? -1 : call_method_void((PyObject *)self, name__wake_later, NULL, NULL);
        }
        return call_method_void(self->reader, name_switch, NULL, NULL);
    }
    if (!is_there(self->callbacks, "_callbacks")) {
        return -1;
    }
    return self->callbacks != Py_None ? call_method_void(self->callbacks, name_start, NULL, NULL) : 0;
}

static int
websocket_feed(WebSocket *self, PyObject *engine, PyObject *buffer, PyObject *size)
{
    PyObject *messages = call_method(engine, name_feed, buffer, size);
    if (messages == NULL) {
        return -1;
    }
    PyObject *eventful = PyObject_GetAttr(engine, name_eventful);
    int failed, more = eventful == NULL ? -1 : PyObject_IsTrue(eventful);
    Py_XDECREF(eventful);
    if (more != 0) {
        failed = more < 0 ? -1 : call_method_void((PyObject *)self, name__eventful, engine, messages);
        Py_DECREF(messages);
        return failed;
    }
    if (!PyList_CheckExact(messages)) {
        PyErr_SetString(PyExc_TypeError, "messages come in a list");
        failed = -1;
    }
    else {
        failed = websocket_put(self, messages);
    }
    Py_DECREF(messages); /* before the switch, which may last */
    Py_ssize_t count = failed ? -1 : websocket_inbox_count(self);
    return count > 0 ? websocket_wake(self) : (int)count; /* 0: a part of a message */
}

PyDoc_STRVAR(websocket_data_received_doc,
"_data_received($self, buffer, size, /)\n--\n\n"
"Runs in the hub.");

static PyObject *
websocket_data_received(WebSocket *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "_data_received() takes 2 arguments (%zd given)", nargs);
    }
    if (self->engine == NULL) {
        return PyErr_Format(PyExc_AttributeError, "there is no engine");
    }
    PyObject *engine = Py_NewRef(self->engine);
    int failed = websocket_feed(self, engine, args[0], args[1]);
    Py_DECREF(engine);
    return native_none(failed);
}

/* ---- The types ---- */

#define OBJECT(type, name) {"_" #name, T_OBJECT_EX, offsetof(type, name), 0, NULL}

static int
turn_traverse(Turn *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->polls);
    return 0;
}

static int
turn_clear(Turn *self)
{
    Py_CLEAR(self->polls);
    return 0;
}

static void
turn_dealloc(PyObject *self)
{
    native_dealloc_collected(self, (inquiry)turn_clear);
}

static PyMethodDef turn_methods[] = {
    {"begin", NATIVE_METHOD(turn_begin), METH_NOARGS, turn_begin_doc},
    {"is_over", NATIVE_METHOD(turn_is_over), METH_NOARGS, turn_is_over_doc},
    {"is_foreign", NATIVE_METHOD(turn_is_foreign), METH_NOARGS, turn_is_foreign_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef turn_members[] = {
    {"polls", T_OBJECT_EX, offsetof(Turn, polls), 0, NULL},
    {"_began", T_DOUBLE, offsetof(Turn, began), 0, NULL},
    {"_iteration", T_LONGLONG, offsetof(Turn, iteration), 0, NULL},
    {"_thread", T_ULONG, offsetof(Turn, thread), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(turn_doc, "The time between two polls of an event loop.");

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, (void *)turn_doc},
    {Py_tp_traverse, turn_traverse},
    {Py_tp_clear, turn_clear},
    {Py_tp_dealloc, turn_dealloc},
    {Py_tp_methods, turn_methods},
    {Py_tp_members, turn_members},
    {0, NULL},
};

static int
transport_traverse(Transport *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->channel);
    Py_VISIT(self->turn);
    Py_VISIT(self->owner);
    Py_VISIT(self->buffer);
    Py_VISIT(self->window);
    Py_VISIT(self->outbox);
    return 0;
}

static int
transport_clear(Transport *self)
{
    Py_CLEAR(self->channel);
    Py_CLEAR(self->turn);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->buffer);
    Py_CLEAR(self->window);
    Py_CLEAR(self->outbox);
    return 0;
}

static void
transport_dealloc(PyObject *self)
{
    native_dealloc_collected(self, (inquiry)transport_clear);
}

static PyMethodDef transport_methods[] = {
    {"_readable", NATIVE_METHOD(transport_readable), METH_NOARGS, transport_readable_doc},
    {"write", NATIVE_METHOD(transport_write), METH_O, transport_write_doc},
    {"queue", NATIVE_METHOD(transport_queue), METH_O, transport_queue_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef transport_members[] = {
    OBJECT(Transport, channel),
    OBJECT(Transport, turn),
    OBJECT(Transport, owner),
    OBJECT(Transport, buffer),
    OBJECT(Transport, window),
    OBJECT(Transport, outbox),
    {"_write_turn", T_LONGLONG, offsetof(Transport, write_turn), 0, NULL},
    {"_flush_due", T_BOOL, offsetof(Transport, flush_due), 0, NULL},
    {"outbox_size", T_PYSSIZET, offsetof(Transport, outbox_size), 0, NULL},
    {"bytes_received", T_LONGLONG, offsetof(Transport, bytes_received), 0, NULL},
    {"bytes_sent", T_LONGLONG, offsetof(Transport, bytes_sent), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(transport_doc, "One read, one write, and the outbox.");

static PyType_Slot transport_slots[] = {
    {Py_tp_doc, (void *)transport_doc},
    {Py_tp_traverse, transport_traverse},
    {Py_tp_clear, transport_clear},
    {Py_tp_dealloc, transport_dealloc},
    {Py_tp_methods, transport_methods},
    {Py_tp_members, transport_members},
    {0, NULL},
};

static int
websocket_traverse(WebSocket *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->engine);
    Py_VISIT(self->transport);
    Py_VISIT(self->hub);
    Py_VISIT(self->turn);
    Py_VISIT(self->reader);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->inbox);
    return 0;
}

static int
websocket_clear(WebSocket *self)
{
    Py_CLEAR(self->engine);
    Py_CLEAR(self->transport);
    Py_CLEAR(self->hub);
    Py_CLEAR(self->turn);
    Py_CLEAR(self->reader);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->inbox);
    return 0;
}

static void
websocket_dealloc(PyObject *self)
{
    native_dealloc_collected(self, (inquiry)websocket_clear);
}

static PyMethodDef websocket_methods[] = {
    {"receive", NATIVE_METHOD(websocket_receive), METH_FASTCALL | METH_KEYWORDS, websocket_receive_doc},
    {"send", NATIVE_METHOD(websocket_send), METH_FASTCALL | METH_KEYWORDS, websocket_send_doc},
    {"offer", NATIVE_METHOD(websocket_offer), METH_FASTCALL | METH_KEYWORDS, websocket_offer_doc},
    {"_data_received", NATIVE_METHOD(websocket_data_received), METH_FASTCALL, websocket_data_received_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef websocket_members[] = {
    OBJECT(WebSocket, engine),
    OBJECT(WebSocket, transport),
    OBJECT(WebSocket, hub),
    OBJECT(WebSocket, turn),
    OBJECT(WebSocket, reader),
    OBJECT(WebSocket, callbacks),
    OBJECT(WebSocket, inbox),
    {"_high_water", T_PYSSIZET, offsetof(WebSocket, high_water), 0, NULL},
    {"_send_limit", T_PYSSIZET, offsetof(WebSocket, send_limit), 0, NULL},
    {"_messages_received", T_LONGLONG, offsetof(WebSocket, messages_received), 0, NULL},
    {"_messages_sent", T_LONGLONG, offsetof(WebSocket, messages_sent), 0, NULL},
    {"_state", T_INT, offsetof(WebSocket, state), 0, NULL},
    {"_paused", T_BOOL, offsetof(WebSocket, paused), 0, NULL},
    {"_end_delivered", T_BOOL, offsetof(WebSocket, end_delivered), 0, NULL},
    {"_holds", T_BOOL, offsetof(WebSocket, holds), 0, NULL},
    {"_plain", T_BOOL, offsetof(WebSocket, plain), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(websocket_doc, "One message in, one message out.");

static PyType_Slot websocket_slots[] = {
    {Py_tp_doc, (void *)websocket_doc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, websocket_next},
    {Py_tp_traverse, websocket_traverse},
    {Py_tp_clear, websocket_clear},
    {Py_tp_dealloc, websocket_dealloc},
    {Py_tp_methods, websocket_methods},
    {Py_tp_members, websocket_members},
    {0, NULL},
};

#define SPEC(type, type_name, slots_of_type)                                                                  \
    {                                                                                                         \
        .name = "gws_middleware.connection._fastpath." type_name, .basicsize = sizeof(type),                  \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,    \
        .slots = slots_of_type,                                                                               \
    }

static PyType_Spec turn_spec = SPEC(Turn, "Turn", turn_slots);
static PyType_Spec transport_spec = SPEC(Transport, "FastTransport", transport_slots);
static PyType_Spec websocket_spec = SPEC(WebSocket, "FastWebSocket", websocket_slots);

/* ---- The module ---- */

/* An attribute of a module; NULL with an exception. */
static PyObject *
import_attribute(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *attribute = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    return attribute;
}

static int
check_constants(void)
{
    PyObject *open = import_attribute("gws_middleware.connection.states", "OPEN");
    if (size_from_object(open) != STATE_OPEN) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ImportError, "_fastpath was built for other states: build it again");
        }
        return -1;
    }
    return 0;
}

static int
module_exec(PyObject *module)
{
    NAMES(NATIVE_INTERN_NAME)
    choose_turn_clock();
    if ((getcurrent = import_attribute("gevent", "getcurrent")) == NULL
        || (prepared_type = import_attribute("gws_middleware.protocol.connection", "PreparedMessage")) == NULL
        || check_constants() < 0 || native_add_double(module, "LASTS", LASTS) < 0
        || (turn_type = (PyTypeObject *)native_add_type(module, &turn_spec)) == NULL
        || (transport_type = (PyTypeObject *)native_add_type(module, &transport_spec)) == NULL
        || native_add_type(module, &websocket_spec) == NULL) {
        return -1;
    }
    Py_INCREF(turn_type); /* also where a test deletes them from the module */
    Py_INCREF(transport_type);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    NATIVE_ONE_INTERPRETER
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_fastpath",
    .m_doc = "What every message costs, in C.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__fastpath(void)
{
    return PyModuleDef_Init(&definition);
}
