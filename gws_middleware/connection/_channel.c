/* SocketChannel: a non-blocking socket with the methods of `PlainChannel` (channel.py), which says what each of them does.
 * Rule: each method answers as the one of _socket.socket of that name, which does the same job where this is not built.
 * tests/test_parity.py and tests/connection/test_channel.py compare the two.
 *
 * It is faster because it takes one argument without parsing, has no timeout to check, and does not release the GIL around
 * calls that never wait. As with a socket, the caller must not close() it in one thread while another one uses it. Nothing
 * but the descriptor is kept from one call to the next.
 */

#include "../_native.h"

#include <errno.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define CLOSED (-1) /* no descriptor: system calls answer EBADF to it */

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS; CPython ignores SIGPIPE unless the application changes that */
#endif

typedef struct {
    PyObject_HEAD
    int fd;
} Channel;

/* Whether a system call that has just failed is to be made again (PEP 475). If not, an exception is set. */
static int
channel_must_retry(void)
{
    if (errno == EINTR) {
        return PyErr_CheckSignals() == 0;
    }
    PyErr_SetFromErrno(PyExc_OSError);
    return 0;
}

/* ---- Reading and writing; self->fd is read for each attempt, because a signal handler may close it ---- */

PyDoc_STRVAR(channel_recv_into_doc,
"recv_into($self, buffer, /)\n--\n\n"
"Read what has come, up to the size of a buffer.\n\n"
"Returns:\n"
"    How many bytes were written to the buffer; 0 when the peer sends no more.\n\n"
"Raises:\n"
"    BlockingIOError: Nothing has come.\n"
"    OSError: The connection is broken.");

static PyObject *
channel_recv_into(Channel *self, PyObject *buffer)
{
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) {
        /* A socket, too, raises this instead of the buffer's own exception. */
        return PyErr_Format(PyExc_TypeError, "recv_into() argument must be a writable contiguous buffer, not %.200s",
                            Py_TYPE(buffer)->tp_name);
    }
    Py_ssize_t size;
    do {
        size = recv(self->fd, view.buf, (size_t)view.len, 0);
    } while (size < 0 && channel_must_retry());
    PyBuffer_Release(&view);
    return native_size(size);
}

static Py_ssize_t
channel_send_bytes(Channel *self, const void *data, Py_ssize_t length)
{
    Py_ssize_t size;
    do {
        size = send(self->fd, data, (size_t)length, MSG_NOSIGNAL);
    } while (size < 0 && channel_must_retry());
    return size;
}

PyDoc_STRVAR(channel_send_doc,
"send($self, data, /)\n--\n\n"
"Write what the kernel takes of a buffer.\n\n"
"Returns:\n"
"    How many bytes that was.\n\n"
"Raises:\n"
"    BlockingIOError: The kernel takes nothing.\n"
"    OSError: The connection is broken.");

static PyObject *
channel_send(Channel *self, PyObject *data)
{
    if (PyBytes_CheckExact(data)) {
        return native_size(channel_send_bytes(self, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)));
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Py_ssize_t size = channel_send_bytes(self, view.buf, view.len);
    PyBuffer_Release(&view);
    return native_size(size);
}

/* The GIL is released here, and in no other call that does not wait: this one is used for large amounts of data, and
 * other threads can run while the kernel copies them. */
static Py_ssize_t
channel_send_vector(Channel *self, struct iovec *vector, Py_ssize_t count)
{
    struct msghdr message = {.msg_iov = vector};
    message.msg_iovlen = count; /* its type differs between systems; too many are EMSGSIZE */
    Py_ssize_t size;
    do {
        Py_BEGIN_ALLOW_THREADS
        size = sendmsg(self->fd, &message, MSG_NOSIGNAL);
        Py_END_ALLOW_THREADS
    } while (size < 0 && channel_must_retry());
    return size;
}

static Py_ssize_t
channel_send_buffers(Channel *self, PyObject *buffers)
{
    Py_ssize_t count = PyTuple_GET_SIZE(buffers), held = 0, size = -1;
    Py_buffer *views = PyMem_New(Py_buffer, count);
    struct iovec *vector = PyMem_New(struct iovec, count);
    if (views == NULL || vector == NULL) {
        PyErr_NoMemory();
    }
    else {
        while (held < count && PyObject_GetBuffer(PyTuple_GET_ITEM(buffers, held), &views[held], PyBUF_SIMPLE) == 0) {
            vector[held].iov_base = views[held].buf;
            vector[held].iov_len = (size_t)views[held].len;
            held++;
        }
        if (held == count) {
            size = channel_send_vector(self, vector, count);
        }
    }
    while (held > 0) {
        PyBuffer_Release(&views[--held]);
    }
    PyMem_Free(views);
    PyMem_Free(vector);
    return size;
}

PyDoc_STRVAR(channel_sendmsg_doc,
"sendmsg($self, buffers, /)\n--\n\n"
"Write what the kernel takes of several buffers, in order.\n\n"
"Returns:\n"
"    How many bytes that was.\n\n"
"Raises:\n"
"    BlockingIOError: The kernel takes nothing.\n"
"    OSError: The connection is broken, or the buffers are more than ``IOV_MAX``.");

static PyObject *
channel_sendmsg(Channel *self, PyObject *sequence)
{
    PyObject *buffers = PySequence_Tuple(sequence); /* a copy: getting a buffer may run code that changes a list */
    if (buffers == NULL) {
        return NULL;
    }
    Py_ssize_t size = channel_send_buffers(self, buffers);
    Py_DECREF(buffers);
    return native_size(size);
}

/* ---- The descriptor ---- */

static PyObject *
channel_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    int fd, on = 1;
    if (names != NULL && PyDict_GET_SIZE(names) > 0) {
        return PyErr_Format(PyExc_TypeError, "SocketChannel() takes no keyword arguments");
    }
    if (!PyArg_ParseTuple(args, "i:SocketChannel", &fd)) {
        return NULL;
    }
    if (fd < 0) {
        return PyErr_Format(PyExc_ValueError, "negative file descriptor");
    }
    /* No method releases the GIL to wait, so none may wait. */
    if (ioctl(fd, FIONBIO, &on) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Channel *self = (Channel *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->fd = fd;
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(channel_fileno_doc,
"fileno($self, /)\n--\n\n"
"The descriptor; -1 once the channel is closed.");

static PyObject *
channel_fileno(Channel *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->fd);
}

PyDoc_STRVAR(channel_shutdown_doc,
"shutdown($self, how, /)\n--\n\n"
"Shut down one direction, or both: ``socket.SHUT_RD``, ``SHUT_WR`` or ``SHUT_RDWR``.");

static PyObject *
channel_shutdown(Channel *self, PyObject *argument)
{
    long how = PyLong_AsLong(argument);
    if (how == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (how < INT_MIN || how > INT_MAX) {
        return PyErr_Format(PyExc_OverflowError, "how is too large");
    }
    if (shutdown(self->fd, (int)how) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* The int in an object; -1 with a TypeError, also where it is too large: a socket tries it as a buffer then. */
static int
channel_option_value(PyObject *object)
{
    int overflow;
    long value = PyLong_AsLongAndOverflow(object, &overflow);
    if (value == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow || value < INT_MIN || value > INT_MAX) {
        PyErr_SetString(PyExc_TypeError, "the value of an option is an int of 32 bits");
        return -1;
    }
    return (int)value;
}

PyDoc_STRVAR(channel_setsockopt_doc,
"setsockopt($self, level, option, value, /)\n--\n\n"
"Set a socket option that is a number.");

static PyObject *
channel_setsockopt(Channel *self, PyObject *args)
{
    int level, option;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "iiO:setsockopt", &level, &option, &object)) {
        return NULL;
    }
    int value = channel_option_value(object);
    if (value == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (setsockopt(self->fd, level, option, &value, sizeof(value)) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static int
channel_close_fd(Channel *self)
{
    int fd = self->fd, failed;
    self->fd = CLOSED; /* before the GIL is released: the number may be used again as soon as close() has freed it */
    if (fd == CLOSED) {
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS /* with SO_LINGER it waits */
    failed = close(fd);
    Py_END_ALLOW_THREADS
    /* FreeBSD reports here that the peer has reset the connection, as no other system does; the descriptor is closed. */
    return failed && errno != ECONNRESET ? -1 : 0;
}

PyDoc_STRVAR(channel_close_doc,
"close($self, /)\n--\n\n"
"Close the descriptor; a second call does nothing.");

static PyObject *
channel_close(Channel *self, PyObject *Py_UNUSED(ignored))
{
    if (channel_close_fd(self) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *
channel_repr(Channel *self)
{
    return PyUnicode_FromFormat("<SocketChannel fd=%d>", self->fd);
}

/* As a socket does: a warning, and the descriptor is closed. */
static void
channel_finalize(Channel *self)
{
    if (self->fd == CLOSED) {
        return;
    }
    PyObject *raised = native_take_exception();
    /* A filter may make the warning an exception, which no caller can catch. */
    if (PyErr_ResourceWarning((PyObject *)self, 1, "unclosed %R", self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    channel_close_fd(self);
    native_raise_again(raised);
}

static void
channel_dealloc(Channel *self)
{
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return; /* code that handled the warning keeps the object */
    }
    native_dealloc((PyObject *)self);
}

/* ---- The type and the module ---- */

static PyMethodDef channel_methods[] = {
    {"recv_into", NATIVE_METHOD(channel_recv_into), METH_O, channel_recv_into_doc},
    {"send", NATIVE_METHOD(channel_send), METH_O, channel_send_doc},
    {"sendmsg", NATIVE_METHOD(channel_sendmsg), METH_O, channel_sendmsg_doc},
    {"shutdown", NATIVE_METHOD(channel_shutdown), METH_O, channel_shutdown_doc},
    {"setsockopt", NATIVE_METHOD(channel_setsockopt), METH_VARARGS, channel_setsockopt_doc},
    {"fileno", NATIVE_METHOD(channel_fileno), METH_NOARGS, channel_fileno_doc},
    {"close", NATIVE_METHOD(channel_close), METH_NOARGS, channel_close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(channel_doc,
"SocketChannel(fd, /)\n--\n\n"
"A connected socket, used without waiting.\n\n"
"Args:\n"
"    fd: Its descriptor, which the object closes. It is made non-blocking.\n\n"
"Raises:\n"
"    ValueError: The number is negative.\n"
"    OSError: It is no descriptor.\n");

/* There is nothing for the garbage collector: an instance refers to its type alone, and an immutable type refers to no
 * instance. */
static PyType_Slot channel_slots[] = {
    {Py_tp_doc, (void *)channel_doc},
    {Py_tp_new, channel_new},
    {Py_tp_repr, channel_repr},
    {Py_tp_finalize, channel_finalize},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_methods, channel_methods},
    {0, NULL},
};

static PyType_Spec channel_spec = {
    .name = "gws_middleware.connection._channel.SocketChannel",
    .basicsize = sizeof(Channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = channel_slots,
};

static int
channel_fill_module(PyObject *module)
{
    return native_add_type(module, &channel_spec) == NULL ? -1 : 0;
}

static PyModuleDef_Slot channel_module_slots[] = {
    {Py_mod_exec, channel_fill_module},
    NATIVE_EACH_INTERPRETER
    NATIVE_NEEDS_NO_GIL
    {0, NULL},
};

static struct PyModuleDef channel_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_channel",
    .m_doc = "A non-blocking socket in C.",
    .m_slots = channel_module_slots,
};

PyMODINIT_FUNC
PyInit__channel(void)
{
    return PyModuleDef_Init(&channel_definition);
}
