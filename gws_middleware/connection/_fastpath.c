/* The base classes of Turns, Transport and WebSocket in C. Rule: each method answers as its twin of the same name in
 * fastpath.py, which says what it promises; the tests run both.
 *
 * What is not common is left to methods of the subclass, by name. Members may be deleted or be of any type, as in
 * Python: what is used as a list is looked at first, and what is called is kept alive during the call.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <structmember.h>
#include <time.h>

#define ATTACHED 0
#define IDLE 1
#define LASTS 0.005 /* seconds, as in fastpath.py */

#ifdef CLOCK_MONOTONIC_COARSE /* Linux: five times as quick, and up to four milliseconds late */
#define CLOCK CLOCK_MONOTONIC_COARSE
#else
#define CLOCK CLOCK_MONOTONIC
#endif

/* ---- Calls by name ---- */

/* Interned once: an extension that runs beside greenlets is loaded into one interpreter only. */
#define NAMES(X)                                                                                              \
    X(recv_into) X(send) X(iteration) X(_data_received) X(queue) X(_read_failed) X(_lost) X(_write_failed)     \
    X(_keep) X(_flush_later) X(switch) X(_receive) X(_relax) X(_check_open) X(_wait_writable) X(encode)       \
    X(write_parts) X(write) X(_too_slow) X(feed) X(eventful) X(_eventful) X(_put) X(_start_work)              \
    X(outbox_size) X(timeout) X(binary) X(_give_way) X(call) X(offer) X(_wake_later) X(frame)      \
    X(join)

#define DECLARE(name) static PyObject *s_##name;
NAMES(DECLARE)

static PyObject *getcurrent; /* gevent's */
static PyObject *prepared_type; /* PreparedMessage */
static PyTypeObject *turn_type;

/* object.name(first, second); arguments that are NULL are left out. */
static PyObject *
call(PyObject *object, PyObject *name, PyObject *first, PyObject *second)
{
    if (object == NULL) {
        return PyErr_Format(PyExc_AttributeError, "there is nothing to call %R of", name);
    }
    PyObject *args[] = {object, first, second};
    Py_INCREF(object);
    PyObject *result = PyObject_VectorcallMethod(name, args, first == NULL ? 1 : second == NULL ? 2 : 3, NULL);
    Py_DECREF(object);
    return result;
}

/* The same where the result does not matter; -1 with an exception. */
static int
tell(PyObject *object, PyObject *name, PyObject *first, PyObject *second)
{
    PyObject *result = call(object, name, first, second);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The same with a number as the last argument. */
static int
tell_size(PyObject *object, PyObject *name, PyObject *first, Py_ssize_t size)
{
    PyObject *number = PyLong_FromSsize_t(size);
    int failed = number == NULL ? -1 : tell(object, name, first, number);
    Py_XDECREF(number);
    return failed;
}

/* The whole number in `object`, which goes; -1 with an exception. */
static Py_ssize_t
to_size(PyObject *object)
{
    if (object == NULL) {
        return -1;
    }
    Py_ssize_t size = PyLong_AsSsize_t(object);
    Py_DECREF(object);
    return size;
}

/* The OSError that has been raised, or NULL where it is another one, which stays raised. */
static PyObject *
take_os_error(void)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return NULL;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
}

static PyObject *
none_or_error(int failed)
{
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- The base of Turns ---- */

typedef struct {
    PyObject_HEAD
    PyObject *ticks;
    double began;
    long long iteration;
    unsigned long thread;
} Turn;

/* The number of polls, -1 with an exception. */
static long long
iteration_of(Turn *self)
{
    PyObject *iteration = self->ticks == NULL ? NULL : PyObject_GetAttr(self->ticks, s_iteration);
    long long number = iteration == NULL ? -1 : PyLong_AsLongLong(iteration);
    Py_XDECREF(iteration);
    if (number == -1 && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_AttributeError, "there is nothing that counts the polls");
    }
    return number;
}

static int
is_foreign(Turn *self)
{
    return PyThread_get_thread_ident() != self->thread;
}

/* 1 where the turn has lasted too long, or in another thread; -1 with an exception. */
static int
is_over(Turn *self)
{
    if (is_foreign(self)) {
        return 1;
    }
    struct timespec clock;
    clock_gettime(CLOCK, &clock);
    double now = (double)clock.tv_sec + (double)clock.tv_nsec * 1e-9;
    if (now - self->began < LASTS) {
        return 0;
    }
    long long iteration = iteration_of(self);
    if (iteration == self->iteration || iteration == -1) {
        return iteration == -1 ? -1 : 1;
    }
    self->iteration = iteration;
    self->began = now;
    return 0;
}

/* The turn in a member of another object; NULL with an exception. All are of one subclass: it is remembered, because to
 * walk over its bases for each message costs more than all else that is done with the turn. */
static inline Turn *
to_turn(PyObject *object)
{
    static PyTypeObject *subclass;
    if (object == NULL || (Py_TYPE(object) != subclass && !PyObject_TypeCheck(object, turn_type))) {
        PyErr_SetString(PyExc_AttributeError, "there is no turn");
        return NULL;
    }
    if (Py_TYPE(object) != subclass) {
        Py_XDECREF(subclass);
        subclass = (PyTypeObject *)Py_NewRef(Py_TYPE(object));
    }
    return (Turn *)object;
}

PyDoc_STRVAR(is_over_doc,
"is_over($self, /)\n--\n\n"
"Whether this turn has lasted for LASTS seconds. In another thread than the loop's it always has.\n\n"
"The clock is read each time, the loop's counter only when that much time has passed. So a turn may last twice\n"
"as long before it shows.");

static PyObject *
turn_is_over(Turn *self, PyObject *Py_UNUSED(ignored))
{
    int over = is_over(self);
    return over < 0 ? NULL : PyBool_FromLong(over);
}

PyDoc_STRVAR(is_foreign_doc,
"is_foreign($self, /)\n--\n\n"
"Whether the caller runs in another thread of the operating system than the loop.");

static PyObject *
turn_is_foreign(Turn *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(is_foreign(self));
}

/* ---- The base of Transport ---- */

typedef struct {
    PyObject_HEAD
    PyObject *channel, *turn, *owner, *buffer, *window, *outbox;
    Py_ssize_t outbox_size;
    long long bytes_received, bytes_sent, tick;
    char flush_due;
} Transport;

PyDoc_STRVAR(readable_doc, "_readable($self, /)\n--\n\nRuns in the hub.");

static PyObject *
readable(Transport *self, PyObject *Py_UNUSED(ignored))
{
    Py_ssize_t size = to_size(call(self->channel, s_recv_into, self->window, NULL));
    if (size > 0) {
        self->bytes_received += size;
        return none_or_error(tell_size(self->owner, s__data_received, self->buffer, size));
    }
    if (size == 0) {
        return call((PyObject *)self, s__lost, NULL, NULL);
    }
    PyObject *error = take_os_error();
    if (error == NULL) {
        return NULL;
    }
    PyObject *result = call((PyObject *)self, s__read_failed, error, NULL);
    Py_DECREF(error);
    return result;
}

PyDoc_STRVAR(queue_doc,
"queue($self, data, /)\n--\n\n"
"Send a frame when the turn ends, because more is about to follow.");

static PyObject *
queue(Transport *self, PyObject *data)
{
    Py_ssize_t size = PyObject_Length(data);
    if (size < 0) {
        return NULL;
    }
    if (self->outbox == NULL || !PyList_CheckExact(self->outbox)) {
        return PyErr_Format(PyExc_TypeError, "the outbox is a list");
    }
    if (PyList_Append(self->outbox, data) < 0) {
        return NULL;
    }
    self->bytes_sent += size;
    self->outbox_size += size;
    if (self->flush_due) {
        Py_RETURN_NONE;
    }
    return call((PyObject *)self, s__flush_later, NULL, NULL);
}

/* The outbox is empty and nothing has been sent in this turn. */
static int
write_now(Transport *self, PyObject *data)
{
    Py_ssize_t size = PyObject_Length(data);
    if (size < 0) {
        return -1;
    }
    self->bytes_sent += size;
    Py_ssize_t sent = to_size(call(self->channel, s_send, data, NULL));
    if (sent == size) {
        return 0;
    }
    if (sent >= 0) {
        return tell_size((PyObject *)self, s__keep, data, sent);
    }
    PyObject *error = take_os_error();
    if (error == NULL) {
        return -1;
    }
    int failed = tell((PyObject *)self, s__write_failed, data, error);
    Py_DECREF(error);
    return failed;
}

PyDoc_STRVAR(write_doc,
"write($self, data, /)\n--\n\n"
"Send a frame without waiting.\n\n"
"One that finds the outbox empty goes to the kernel at once; those that follow in the same turn of the loop are\n"
"joined and leave together when it ends.");

static PyObject *
transport_write(Transport *self, PyObject *data)
{
    if (self->outbox_size) {
        return call((PyObject *)self, s_queue, data, NULL);
    }
    Turn *turn = to_turn(self->turn);
    long long tick = turn == NULL ? -1 : iteration_of(turn);
    if (tick == -1) {
        return NULL;
    }
    if (tick == self->tick) {
        return call((PyObject *)self, s_queue, data, NULL);
    }
    self->tick = tick;
    return none_or_error(write_now(self, data));
}

/* ---- The base of WebSocket ---- */

typedef struct {
    PyObject_HEAD
    PyObject *engine, *transport, *hub, *turn, *reader, *inbox;
    Py_ssize_t high_water, send_limit;
    long long messages_received, messages_sent;
    int stage;
    char open, paused, told, holds, plain;
} WebSocket;

/* How many messages wait; -1 with an exception. */
static Py_ssize_t
waiting(WebSocket *self)
{
    if (self->inbox == NULL || !PyList_CheckExact(self->inbox)) {
        PyErr_SetString(PyExc_TypeError, "the inbox is a list");
        return -1;
    }
    return PyList_GET_SIZE(self->inbox);
}

/* Let the loop run until somebody switches back to this greenlet. */
static int
wait_for_message(WebSocket *self)
{
    PyObject *current = PyObject_CallNoArgs(getcurrent);
    if (current == NULL) {
        return -1;
    }
    Py_XSETREF(self->reader, current);
    int failed = tell(self->hub, s_switch, NULL, NULL);
    Py_XSETREF(self->reader, Py_NewRef(Py_None));
    return failed;
}

static PyObject *
take_message(WebSocket *self)
{
    Py_ssize_t count = waiting(self);
    PyObject *inbox = self->inbox;
    if (count <= 0) {
        return count < 0 ? NULL : call((PyObject *)self, s__receive, Py_None, NULL);
    }
    PyObject *message = Py_NewRef(PyList_GET_ITEM(inbox, count - 1));
    if (PyList_SetSlice(inbox, count - 1, count, NULL) < 0
        || (self->paused && tell((PyObject *)self, s__relax, NULL, NULL) < 0)) {
        Py_CLEAR(message);
    }
    return message;
}

static PyObject *
receive_within(WebSocket *self, PyObject *timeout)
{
    Py_ssize_t count = waiting(self);
    if (count > 0) {
        /* Before a message is taken: a caller that is cut off in its wait has lost none. */
        Turn *turn = to_turn(self->turn);
        int over = turn == NULL ? -1 : is_over(turn);
        if (over < 0 || (over && tell((PyObject *)self, s__give_way, NULL, NULL) < 0)) {
            return NULL;
        }
        count = waiting(self);
    }
    if (count < 0) {
        return NULL;
    }
    if (count == 0 || self->stage != ATTACHED) {
        Turn *turn = to_turn(self->turn);
        if (turn == NULL) {
            return NULL;
        }
        if (timeout != Py_None || !self->open || self->reader != Py_None || self->stage != ATTACHED || self->holds
            || is_foreign(turn)) {
            return call((PyObject *)self, s__receive, timeout, NULL);
        }
        if (wait_for_message(self) < 0) {
            return NULL;
        }
    }
    return take_message(self);
}

/* One or two arguments, of which the second may be given by name. */
static int
two_arguments(PyObject *const *args, Py_ssize_t nargs, PyObject *names, Py_ssize_t required, PyObject *name,
              PyObject **values)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (nargs < required || nargs + named > required + 1) {
        PyErr_Format(PyExc_TypeError, "takes %zd to %zd arguments, %zd given", required, required + 1, nargs + named);
        return -1;
    }
    for (Py_ssize_t i = 0; i < named; i++) {
        if (PyUnicode_Compare(PyTuple_GET_ITEM(names, i), name) != 0) {
            PyErr_Format(PyExc_TypeError, "got an unexpected keyword argument %R", PyTuple_GET_ITEM(names, i));
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < nargs + named; i++) {
        values[i] = args[i];
    }
    return 0;
}

PyDoc_STRVAR(receive_doc,
"receive($self, /, timeout=None)\n--\n\n"
"The next message: str for text, bytes for binary. Waits for one, timeout seconds at the most.\n\n"
"None, once, when the connection has ended; ConnectionClosed on a further call. TimeoutError when nothing came in\n"
"time: the connection stays usable. RuntimeError when another greenlet is waiting here, after detach(), and in\n"
"another thread of the operating system.");

static PyObject *
receive(WebSocket *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    PyObject *values[1] = {Py_None};
    if (two_arguments(args, nargs, names, 0, s_timeout, values) < 0) {
        return NULL;
    }
    return receive_within(self, values[0]);
}

/* The next message of a loop over the messages; without one and without an exception the loop ends. */
static PyObject *
next_message(WebSocket *self)
{
    if (self->told && waiting(self) <= 0) {
        return NULL;
    }
    PyObject *message = receive_within(self, Py_None);
    if (message == Py_None) {
        Py_CLEAR(message);
    }
    return message;
}

static Py_ssize_t
outbox_size(PyObject *transport)
{
    return to_size(PyObject_GetAttr(transport, s_outbox_size));
}

static int
send_frame(WebSocket *self, PyObject *transport, PyObject *frame)
{
    self->messages_sent++;
    if (!PyBytes_CheckExact(frame)) {
        return tell(transport, s_write_parts, frame, NULL);
    }
    Py_ssize_t count = waiting(self);
    /* Where more of a burst waits, its answers leave together. */
    return count < 0 ? -1 : tell(transport, count ? s_queue : s_write, frame, NULL);
}

static int
send_message(WebSocket *self, PyObject *transport, PyObject *message, PyObject *binary)
{
    Py_ssize_t size = outbox_size(transport);
    if (size < 0 || (size > self->high_water && tell((PyObject *)self, s__wait_writable, transport, NULL) < 0)) {
        return -1;
    }
    PyObject *frame = call(self->engine, s_encode, message, binary);
    if (frame == NULL) {
        return -1;
    }
    int failed = send_frame(self, transport, frame);
    Py_DECREF(frame);
    return failed;
}

/* The method of that name, in the loop's thread; `second` may be NULL. */
static PyObject *
call_in_loop(WebSocket *self, PyObject *name, PyObject *first, PyObject *second)
{
    PyObject *method = PyObject_GetAttr((PyObject *)self, name), *result = NULL;
    if (method != NULL) {
        PyObject *args[] = {self->turn, method, first, second};
        result = PyObject_VectorcallMethod(s_call, args, second == NULL ? 3 : 4, NULL);
        Py_DECREF(method);
    }
    return result;
}

PyDoc_STRVAR(send_doc,
"send($self, message, /, binary=None)\n--\n\n"
"Send a message: str as text, bytes as binary; binary says otherwise.\n\n"
"Waits while more than send_high_water bytes wait for the peer to read. ConnectionClosed on an ended connection,\n"
"and when the peer read nothing for send_timeout seconds. TypeError, ValueError: not a message. May be called in\n"
"any thread of the operating system.");

static PyObject *
send_(WebSocket *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    PyObject *values[2] = {NULL, Py_None};
    if (two_arguments(args, nargs, names, 1, s_binary, values) < 0) {
        return NULL;
    }
    Turn *turn = to_turn(self->turn);
    int over = turn == NULL ? -1 : is_over(turn);
    if (over > 0 && is_foreign(turn)) {
        return call_in_loop(self, s_send, values[0], values[1]);
    }
    if (over < 0 || (over > 0 && tell((PyObject *)self, s__give_way, NULL, NULL) < 0)
        || (!self->open && tell((PyObject *)self, s__check_open, NULL, NULL) < 0)) {
        return NULL;
    }
    if (self->transport == NULL) {
        return PyErr_Format(PyExc_AttributeError, "there is no transport");
    }
    PyObject *transport = Py_NewRef(self->transport);
    int failed = send_message(self, transport, values[0], values[1]);
    Py_DECREF(transport);
    return none_or_error(failed);
}

/* The frame of a message for this connection; NULL with an exception. */
static PyObject *
frame_of(WebSocket *self, PyObject *message)
{
    if (self->plain && (PyObject *)Py_TYPE(message) == prepared_type) {
        return PyObject_GetAttr(message, s_frame);
    }
    PyObject *frame = call(self->engine, s_encode, message, NULL);
    if (frame != NULL && PyTuple_CheckExact(frame)) { /* a large one comes in two parts */
        PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
        PyObject *joined = call(empty, s_join, frame, NULL);
        Py_XDECREF(empty);
        Py_SETREF(frame, joined);
    }
    return frame;
}

/* 1: sent; 0: too slow; -1: an exception. */
static int
offer_frame(WebSocket *self, PyObject *transport, PyObject *frame)
{
    Py_ssize_t before = outbox_size(transport), size = before > 0 ? PyObject_Length(frame) : 0;
    if (before < 0 || size < 0) {
        return -1;
    }
    if (before > 0 && before + size > self->send_limit) {
        return tell((PyObject *)self, s__too_slow, NULL, NULL);
    }
    if (tell(transport, s_write, frame, NULL) < 0) {
        return -1;
    }
    self->messages_sent++;
    return 1;
}

PyDoc_STRVAR(offer_doc,
"offer($self, /, message)\n--\n\n"
"Send a message without ever waiting for the peer; False when the connection has ended.\n\n"
"prepare() makes a message ready once for many connections; any other is encoded for this one alone. A peer\n"
"with more than send_limit bytes unread is too slow for the rest: its connection ends with 1013. A greenlet\n"
"that sends on one connection without a pause lets the loop run now and then. TypeError: not a message.");

static PyObject *
offer(WebSocket *self, PyObject *message)
{
    Turn *turn = to_turn(self->turn);
    int over = turn == NULL ? -1 : is_over(turn);
    if (over > 0 && is_foreign(turn)) {
        return call_in_loop(self, s_offer, message, NULL);
    }
    if (over < 0 || (over > 0 && tell((PyObject *)self, s__give_way, NULL, NULL) < 0)) {
        return NULL;
    }
    if (!self->open) {
        Py_RETURN_FALSE;
    }
    if (self->transport == NULL) {
        return PyErr_Format(PyExc_AttributeError, "there is no transport");
    }
    PyObject *frame = frame_of(self, message);
    if (frame == NULL) {
        return NULL;
    }
    PyObject *transport = Py_NewRef(self->transport);
    int sent = offer_frame(self, transport, frame);
    Py_DECREF(transport);
    Py_DECREF(frame);
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}

/* Whole messages and nothing else have come. */
static int
put(WebSocket *self, PyObject *messages)
{
    Py_ssize_t count = waiting(self);
    if (count < 0) {
        return -1;
    }
    if (count > 0 || PyList_GET_SIZE(messages) != 1) {
        return tell((PyObject *)self, s__put, messages, NULL);
    }
    self->messages_received++;
    Py_XSETREF(self->inbox, Py_NewRef(messages));
    return 0;
}

/* Wake whoever takes the messages. Switching runs the view until it waits again: nothing may follow. */
static int
wake(WebSocket *self)
{
    if (self->reader != NULL && self->reader != Py_None) {
        Turn *turn = to_turn(self->turn);
        int over = turn == NULL ? -1 : is_over(turn);
        if (over != 0) {
            return over < 0 ? -1 : tell((PyObject *)self, s__wake_later, NULL, NULL);
        }
        return tell(self->reader, s_switch, NULL, NULL);
    }
    return self->stage == IDLE ? tell((PyObject *)self, s__start_work, NULL, NULL) : 0;
}

static int
feed(WebSocket *self, PyObject *engine, PyObject *buffer, PyObject *size)
{
    PyObject *messages = call(engine, s_feed, buffer, size);
    if (messages == NULL) {
        return -1;
    }
    PyObject *eventful = PyObject_GetAttr(engine, s_eventful);
    int failed, more = eventful == NULL ? -1 : PyObject_IsTrue(eventful);
    Py_XDECREF(eventful);
    if (more != 0) {
        failed = more < 0 ? -1 : tell((PyObject *)self, s__eventful, engine, messages);
        Py_DECREF(messages);
        return failed;
    }
    if (!PyList_CheckExact(messages)) {
        PyErr_SetString(PyExc_TypeError, "messages come in a list");
        failed = -1;
    }
    else {
        failed = put(self, messages);
    }
    Py_DECREF(messages); /* before the switch, which may last */
    return failed ? -1 : wake(self);
}

PyDoc_STRVAR(data_received_doc, "_data_received($self, buffer, size, /)\n--\n\nRuns in the hub.");

static PyObject *
data_received(WebSocket *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "_data_received() takes 2 arguments, %zd given", nargs);
    }
    if (self->engine == NULL) {
        return PyErr_Format(PyExc_AttributeError, "there is no engine");
    }
    PyObject *engine = Py_NewRef(self->engine);
    int failed = feed(self, engine, args[0], args[1]);
    Py_DECREF(engine);
    return none_or_error(failed);
}

/* ---- The types ---- */

#define METHOD(f) ((PyCFunction)(void (*)(void))(f))
#define OBJECT(type, name) {"_" #name, T_OBJECT_EX, offsetof(type, name), 0, NULL}

/* Both types alike: their objects are members of the struct, one behind the other. */
static int
visit(PyObject *self, PyObject **first, PyObject **last, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (PyObject **object = first; object <= last; object++) {
        Py_VISIT(*object);
    }
    return 0;
}

static int
let_go(PyObject **first, PyObject **last)
{
    for (PyObject **object = first; object <= last; object++) {
        Py_CLEAR(*object);
    }
    return 0;
}

static void
end(PyObject *self, inquiry clear)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
turn_traverse(Turn *self, visitproc visitor, void *arg)
{
    return visit((PyObject *)self, &self->ticks, &self->ticks, visitor, arg);
}

static int
turn_clear(Turn *self)
{
    return let_go(&self->ticks, &self->ticks);
}

static void
turn_dealloc(PyObject *self)
{
    end(self, (inquiry)turn_clear);
}

static PyMethodDef turn_methods[] = {
    {"is_over", METHOD(turn_is_over), METH_NOARGS, is_over_doc},
    {"is_foreign", METHOD(turn_is_foreign), METH_NOARGS, is_foreign_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef turn_members[] = {
    {"ticks", T_OBJECT_EX, offsetof(Turn, ticks), 0, NULL},
    {"_began", T_DOUBLE, offsetof(Turn, began), 0, NULL},
    {"_iteration", T_LONGLONG, offsetof(Turn, iteration), 0, NULL},
    {"_thread", T_ULONG, offsetof(Turn, thread), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(turn_doc, "The time between two polls of an event loop.");

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, (void *)turn_doc},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_traverse, turn_traverse},
    {Py_tp_clear, turn_clear},
    {Py_tp_dealloc, turn_dealloc},
    {Py_tp_methods, turn_methods},
    {Py_tp_members, turn_members},
    {0, NULL},
};

static int
transport_traverse(Transport *self, visitproc visitor, void *arg)
{
    return visit((PyObject *)self, &self->channel, &self->outbox, visitor, arg);
}

static int
transport_clear(Transport *self)
{
    return let_go(&self->channel, &self->outbox);
}

static void
transport_dealloc(PyObject *self)
{
    end(self, (inquiry)transport_clear);
}

static PyMethodDef transport_methods[] = {
    {"_readable", METHOD(readable), METH_NOARGS, readable_doc},
    {"write", METHOD(transport_write), METH_O, write_doc},
    {"queue", METHOD(queue), METH_O, queue_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef transport_members[] = {
    OBJECT(Transport, channel),
    OBJECT(Transport, turn),
    OBJECT(Transport, owner),
    OBJECT(Transport, buffer),
    OBJECT(Transport, window),
    OBJECT(Transport, outbox),
    {"_tick", T_LONGLONG, offsetof(Transport, tick), 0, NULL},
    {"_flush_due", T_BOOL, offsetof(Transport, flush_due), 0, NULL},
    {"outbox_size", T_PYSSIZET, offsetof(Transport, outbox_size), 0, NULL},
    {"bytes_received", T_LONGLONG, offsetof(Transport, bytes_received), 0, NULL},
    {"bytes_sent", T_LONGLONG, offsetof(Transport, bytes_sent), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(transport_doc, "One read, one write, and the outbox.");

static PyType_Slot transport_slots[] = {
    {Py_tp_doc, (void *)transport_doc},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_traverse, transport_traverse},
    {Py_tp_clear, transport_clear},
    {Py_tp_dealloc, transport_dealloc},
    {Py_tp_methods, transport_methods},
    {Py_tp_members, transport_members},
    {0, NULL},
};

static int
websocket_traverse(WebSocket *self, visitproc visitor, void *arg)
{
    return visit((PyObject *)self, &self->engine, &self->inbox, visitor, arg);
}

static int
websocket_clear(WebSocket *self)
{
    return let_go(&self->engine, &self->inbox);
}

static void
websocket_dealloc(PyObject *self)
{
    end(self, (inquiry)websocket_clear);
}

static PyMethodDef websocket_methods[] = {
    {"receive", METHOD(receive), METH_FASTCALL | METH_KEYWORDS, receive_doc},
    {"send", METHOD(send_), METH_FASTCALL | METH_KEYWORDS, send_doc},
    {"offer", METHOD(offer), METH_O, offer_doc},
    {"_data_received", METHOD(data_received), METH_FASTCALL, data_received_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef websocket_members[] = {
    OBJECT(WebSocket, engine),
    OBJECT(WebSocket, transport),
    OBJECT(WebSocket, hub),
    OBJECT(WebSocket, turn),
    OBJECT(WebSocket, reader),
    OBJECT(WebSocket, inbox),
    {"_high_water", T_PYSSIZET, offsetof(WebSocket, high_water), 0, NULL},
    {"_send_limit", T_PYSSIZET, offsetof(WebSocket, send_limit), 0, NULL},
    {"_messages_received", T_LONGLONG, offsetof(WebSocket, messages_received), 0, NULL},
    {"_messages_sent", T_LONGLONG, offsetof(WebSocket, messages_sent), 0, NULL},
    {"_stage", T_INT, offsetof(WebSocket, stage), 0, NULL},
    {"_open", T_BOOL, offsetof(WebSocket, open), 0, NULL},
    {"_paused", T_BOOL, offsetof(WebSocket, paused), 0, NULL},
    {"_told", T_BOOL, offsetof(WebSocket, told), 0, NULL},
    {"_holds", T_BOOL, offsetof(WebSocket, holds), 0, NULL},
    {"_plain", T_BOOL, offsetof(WebSocket, plain), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(websocket_doc, "One message in, one message out.");

static PyType_Slot websocket_slots[] = {
    {Py_tp_doc, (void *)websocket_doc},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, next_message},
    {Py_tp_traverse, websocket_traverse},
    {Py_tp_clear, websocket_clear},
    {Py_tp_dealloc, websocket_dealloc},
    {Py_tp_methods, websocket_methods},
    {Py_tp_members, websocket_members},
    {0, NULL},
};

#define SPEC(type, type_name, slots_of_type)                                                                  \
    {                                                                                                         \
        .name = "gws_middleware.connection._fastpath." type_name, .basicsize = sizeof(type),                         \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,    \
        .slots = slots_of_type,                                                                               \
    }

static PyType_Spec specs[] = {
    SPEC(Turn, "Turn", turn_slots),
    SPEC(Transport, "TransportPath", transport_slots),
    SPEC(WebSocket, "WebSocketPath", websocket_slots),
};

/* ---- The module ---- */

static int
fill_module(PyObject *module)
{
#define INTERN(name)                                                                                          \
    if ((s_##name = PyUnicode_InternFromString(#name)) == NULL) {                                             \
        return -1;                                                                                            \
    }
    NAMES(INTERN)
    PyObject *gevent = PyImport_ImportModule("gevent");
    getcurrent = gevent == NULL ? NULL : PyObject_GetAttrString(gevent, "getcurrent");
    Py_XDECREF(gevent);
    PyObject *engine = PyImport_ImportModule("gws_middleware.protocol.connection");
    prepared_type = engine == NULL ? NULL : PyObject_GetAttrString(engine, "PreparedMessage");
    Py_XDECREF(engine);
    if (getcurrent == NULL || prepared_type == NULL) {
        return -1;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, &specs[i], NULL);
        if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
            Py_XDECREF(type);
            return -1;
        }
        if (i == 0) {
            turn_type = (PyTypeObject *)Py_NewRef(type);
        }
        Py_DECREF(type);
    }
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, fill_module},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
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
