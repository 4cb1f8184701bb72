/* SocketChannel: what transport.py needs of a non-blocking socket, and no more. Rule: each method answers as the one
 * of _socket.socket of that name, which does the same job where this is not built; the tests run both.
 *
 * What makes it quicker: one argument that is not parsed, no timeout to look at, and no release of the GIL around
 * calls that never wait. As with a socket, close() in one thread while another one uses the channel is for the caller
 * to avoid; beyond the descriptor nothing is kept between two calls.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define CLOSED (-1) /* no descriptor: the kernel answers EBADF to it */

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS; Python ignores SIGPIPE anyway unless it is told otherwise */
#endif

typedef struct {
    PyObject_HEAD
    int fd;
} Channel;

/* Whether a system call that has just failed is to be made again; if not, an exception is set. */
static int
again(void)
{
    if (errno == EINTR) {
        return PyErr_CheckSignals() == 0;
    }
    PyErr_SetFromErrno(PyExc_OSError);
    return 0;
}

static PyObject *
size_or_error(Py_ssize_t size)
{
    return size < 0 ? NULL : PyLong_FromSsize_t(size);
}

/* ---- Reading and writing; self->fd is looked up for each attempt, because a signal handler may close it ---- */

PyDoc_STRVAR(recv_into_doc,
"recv_into($self, buffer, /)\n--\n\n"
"Read what is there, up to the size of the buffer; 0 is the end.");

static PyObject *
recv_into(Channel *self, PyObject *buffer)
{
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    Py_ssize_t size;
    do {
        size = recv(self->fd, view.buf, (size_t)view.len, 0);
    } while (size < 0 && again());
    PyBuffer_Release(&view);
    return size_or_error(size);
}

static Py_ssize_t
send_bytes(Channel *self, const void *data, Py_ssize_t length)
{
    Py_ssize_t size;
    do {
        size = send(self->fd, data, (size_t)length, MSG_NOSIGNAL);
    } while (size < 0 && again());
    return size;
}

PyDoc_STRVAR(send_doc,
"send($self, data, /)\n--\n\n"
"Write what the kernel takes; return how many bytes that was.");

static PyObject *
channel_send(Channel *self, PyObject *data)
{
    if (PyBytes_CheckExact(data)) {
        return size_or_error(send_bytes(self, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)));
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Py_ssize_t size = send_bytes(self, view.buf, view.len);
    PyBuffer_Release(&view);
    return size_or_error(size);
}

/* This one is called for much data: other threads may run while the kernel copies it. */
static Py_ssize_t
send_vector(Channel *self, struct iovec *vector, Py_ssize_t count)
{
    struct msghdr message = {.msg_iov = vector};
    message.msg_iovlen = count; /* of a type that differs between systems; to too many the kernel says EMSGSIZE */
    Py_ssize_t size;
    do {
        Py_BEGIN_ALLOW_THREADS
        size = sendmsg(self->fd, &message, MSG_NOSIGNAL);
        Py_END_ALLOW_THREADS
    } while (size < 0 && again());
    return size;
}

static Py_ssize_t
send_all_of(Channel *self, PyObject *buffers)
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
            size = send_vector(self, vector, count);
        }
    }
    while (held > 0) {
        PyBuffer_Release(&views[--held]);
    }
    PyMem_Free(views);
    PyMem_Free(vector);
    return size;
}

PyDoc_STRVAR(sendmsg_doc,
"sendmsg($self, buffers, /)\n--\n\n"
"Write what the kernel takes of all the buffers, in order; return how many bytes that was.");

static PyObject *
channel_sendmsg(Channel *self, PyObject *sequence)
{
    PyObject *buffers = PySequence_Tuple(sequence); /* a copy: asking for a buffer may run code that changes a list */
    if (buffers == NULL) {
        return NULL;
    }
    Py_ssize_t size = send_all_of(self, buffers);
    Py_DECREF(buffers);
    return size_or_error(size);
}

/* ---- The descriptor, from beginning to end ---- */

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
    /* Nothing here releases the GIL to wait. */
    if (ioctl(fd, FIONBIO, &on) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Channel *self = (Channel *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->fd = fd;
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(fileno_doc,
"fileno($self, /)\n--\n\n"
"The descriptor; -1 once it is closed.");

static PyObject *
channel_fileno(Channel *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->fd);
}

PyDoc_STRVAR(shutdown_doc,
"shutdown($self, how, /)\n--\n\n"
"Shut down one direction, or both.");

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

PyDoc_STRVAR(setsockopt_doc,
"setsockopt($self, level, option, value, /)\n--\n\n"
"Set an option that is a number.");

static PyObject *
channel_setsockopt(Channel *self, PyObject *args)
{
    int level, option, value;
    if (!PyArg_ParseTuple(args, "iii:setsockopt", &level, &option, &value)) {
        return NULL;
    }
    if (setsockopt(self->fd, level, option, &value, sizeof(value)) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static int
close_fd(Channel *self)
{
    int fd = self->fd, failed;
    self->fd = CLOSED; /* before the GIL is released, so that nobody closes a number that is given anew */
    if (fd == CLOSED) {
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS /* SO_LINGER makes it wait */
    failed = close(fd);
    Py_END_ALLOW_THREADS
    /* Only FreeBSD tells here that the peer has reset the connection; it is closed all the same. */
    return failed && errno != ECONNRESET ? -1 : 0;
}

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Close the descriptor; a second call does nothing.");

static PyObject *
channel_close(Channel *self, PyObject *Py_UNUSED(ignored))
{
    if (close_fd(self) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *
channel_repr(Channel *self)
{
    return PyUnicode_FromFormat("<SocketChannel fd=%d>", self->fd);
}

static void
channel_finalize(Channel *self)
{
    if (self->fd == CLOSED) {
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    /* Filters may have made an exception of it, which nobody is there to catch. */
    if (PyErr_ResourceWarning((PyObject *)self, 1, "unclosed %R", self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    close_fd(self);
    PyErr_Restore(type, value, traceback);
}

static void
channel_dealloc(Channel *self)
{
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return; /* who showed the warning has kept the object */
    }
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- The type and the module ---- */

#define METHOD(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef methods[] = {
    {"recv_into", METHOD(recv_into), METH_O, recv_into_doc},
    {"send", METHOD(channel_send), METH_O, send_doc},
    {"sendmsg", METHOD(channel_sendmsg), METH_O, sendmsg_doc},
    {"shutdown", METHOD(channel_shutdown), METH_O, shutdown_doc},
    {"setsockopt", METHOD(channel_setsockopt), METH_VARARGS, setsockopt_doc},
    {"fileno", METHOD(channel_fileno), METH_NOARGS, fileno_doc},
    {"close", METHOD(channel_close), METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(channel_doc,
"SocketChannel(fd, /)\n--\n\n"
"A connected socket, used without waiting. The descriptor is its own from here on.");

/* There is nothing to collect: instances refer to their type alone, and types that cannot be changed refer to no
 * instance. */
static PyType_Slot type_slots[] = {
    {Py_tp_doc, (void *)channel_doc},
    {Py_tp_new, channel_new},
    {Py_tp_repr, channel_repr},
    {Py_tp_finalize, channel_finalize},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec type_spec = {
    .name = "gws_middleware.connection._channel.SocketChannel",
    .basicsize = sizeof(Channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = type_slots,
};

static int
fill_module(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &type_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, fill_module},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_channel",
    .m_doc = "A lean non-blocking socket in C.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__channel(void)
{
    return PyModuleDef_Init(&definition);
}
