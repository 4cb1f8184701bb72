/* The hot paths of masking.py and frames.py. Rule: each function answers as its pure Python twin there, which
 * says what it promises; the tests run both and compare them.
 *
 * Beyond the names of two methods, nothing is kept between two calls.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

/* The first two bytes of a frame (RFC 6455 5.2). */
#define WHOLE_TEXT 0x81   /* FIN, no RSV bit, opcode 1 */
#define WHOLE_BINARY 0x82 /* FIN, no RSV bit, opcode 2 */
#define MASK_BIT 0x80
#define LENGTH_BITS 0x7F
#define LENGTH_16 126 /* the length follows in 16 bits */
#define LENGTH_64 127 /* the length follows in 64 bits */

#define KEY_SIZE 4
#define MAX_HEADER_SIZE 14
#define AT_ONCE 256 /* messages that come out of one call at the most, as in frames.py */

/* ---- Masking (RFC 6455 5.3) ---- */

/* Write `source` XOR the repeated key to `target`. Return the OR of all bytes written, eight abreast, for
 * is_ascii(); where nobody asks, compilers leave that out. Of the first loop they make vector code. */
static inline uint64_t
xor_key(unsigned char *restrict target, const unsigned char *restrict source, Py_ssize_t length,
        const unsigned char *key)
{
    uint64_t key_twice, word, seen = 0;
    memcpy(&key_twice, key, KEY_SIZE);
    memcpy((unsigned char *)&key_twice + KEY_SIZE, key, KEY_SIZE);

    Py_ssize_t in_words = length - length % 8;
    for (Py_ssize_t i = 0; i < in_words; i += 8) {
        memcpy(&word, source + i, 8);
        word ^= key_twice;
        seen |= word;
        memcpy(target + i, &word, 8);
    }
    for (Py_ssize_t i = in_words; i < length; i++) {
        target[i] = source[i] ^ key[i % KEY_SIZE];
        seen |= target[i];
    }
    return seen;
}

static inline int
is_ascii(uint64_t seen)
{
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}

static int
read_key(PyObject *object, unsigned char key[KEY_SIZE])
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    Py_ssize_t size = view.len;
    if (size == KEY_SIZE) {
        memcpy(key, view.buf, KEY_SIZE);
    }
    PyBuffer_Release(&view);
    if (size != KEY_SIZE) {
        PyErr_Format(PyExc_ValueError, "a masking key has 4 bytes, this one has %zd", size);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(mask_doc,
"mask($module, data, key, /)\n--\n\n"
"The bytes of data XOR the repeated key (RFC 6455 5.3).");

static PyObject *
mask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "mask() takes 2 positional arguments, %zd given", nargs);
    }
    unsigned char key[KEY_SIZE];
    Py_buffer data;
    if (read_key(args[1], key) < 0 || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *result = PyBytes_FromStringAndSize(NULL, data.len);
    if (result != NULL) {
        xor_key((unsigned char *)PyBytes_AS_STRING(result), data.buf, data.len, key);
    }
    PyBuffer_Release(&data);
    return result;
}

/* ---- Building a frame (RFC 6455 5.2) ---- */

/* `key` is NULL where nothing is masked. */
static PyObject *
build_frame(Py_ssize_t first_byte, const void *payload, Py_ssize_t length, const unsigned char *key)
{
    if (length > PY_SSIZE_T_MAX - MAX_HEADER_SIZE) {
        return PyErr_NoMemory();
    }
    /* 5.2: the minimal number of bytes MUST be used to encode the length. */
    int length_size = length < LENGTH_16 ? 0 : length <= 0xFFFF ? 2 : 8;
    int length_code = length < LENGTH_16 ? (int)length : length <= 0xFFFF ? LENGTH_16 : LENGTH_64;
    Py_ssize_t header_size = 2 + length_size + (key != NULL ? KEY_SIZE : 0);

    PyObject *frame = PyBytes_FromStringAndSize(NULL, header_size + length);
    if (frame == NULL) {
        return NULL;
    }
    unsigned char *target = (unsigned char *)PyBytes_AS_STRING(frame);
    *target++ = (unsigned char)first_byte;
    *target++ = (unsigned char)((key != NULL ? MASK_BIT : 0) | length_code);
    for (int shift = 8 * (length_size - 1); shift >= 0; shift -= 8) {
        *target++ = (unsigned char)((uint64_t)length >> shift);
    }
    if (key == NULL) {
        memcpy(target, payload, (size_t)length);
    }
    else {
        memcpy(target, key, KEY_SIZE);
        xor_key(target + KEY_SIZE, payload, length, key);
    }
    return frame;
}

static PyObject *
build_text_frame(Py_ssize_t first_byte, PyObject *text, const unsigned char *key)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0) {
        return NULL;
    }
#endif
    if (PyUnicode_IS_ASCII(text)) {
        return build_frame(first_byte, PyUnicode_1BYTE_DATA(text), PyUnicode_GET_LENGTH(text), key);
    }
    /* A temporary object and a copy of it are quicker, as measured, than two loops of our own over the text
     * (for the size, then to write); unlike PyUnicode_AsUTF8AndSize() they leave no second copy in `text`. */
    PyObject *encoded = PyUnicode_AsUTF8String(text);
    if (encoded == NULL) {
        return NULL;
    }
    PyObject *frame = build_frame(first_byte, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded), key);
    Py_DECREF(encoded);
    return frame;
}

PyDoc_STRVAR(encode_frame_doc,
"encode_frame($module, first_byte, payload, /, key=None)\n--\n\n"
"One whole frame; a text is encoded, and the payload is masked where there is a key.");

static PyObject *
encode_frame(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (nargs < 2 || nargs + named > 3) {
        return PyErr_Format(PyExc_TypeError, "encode_frame() takes 2 or 3 arguments, %zd given",
                            nargs + named);
    }
    if (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "key") != 0) {
        return PyErr_Format(PyExc_TypeError, "encode_frame() has no keyword %R", PyTuple_GET_ITEM(names, 0));
    }
    Py_ssize_t first_byte = PyNumber_AsSsize_t(args[0], NULL);
    if (first_byte == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (first_byte < 0 || first_byte > 0xFF) {
        return PyErr_Format(PyExc_ValueError, "the first byte of a frame is 0 to 255, not %S", args[0]);
    }
    unsigned char key_bytes[KEY_SIZE];
    const unsigned char *key = NULL;
    if (nargs + named == 3 && args[2] != Py_None) {
        if (read_key(args[2], key_bytes) < 0) {
            return NULL;
        }
        key = key_bytes;
    }
    if (PyUnicode_Check(args[1])) {
        return build_text_frame(first_byte, args[1], key);
    }
    Py_buffer payload;
    if (PyObject_GetBuffer(args[1], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *frame = build_frame(first_byte, payload.buf, payload.len, key);
    PyBuffer_Release(&payload);
    return frame;
}

/* ---- The short path of reading ---- */

/* The size of the header if `available` bytes hold a whole frame that the short path takes, else 0. */
static inline Py_ssize_t
read_header(const unsigned char *frame, Py_ssize_t available, uint64_t max_size, int masked,
            Py_ssize_t *length)
{
    if (available < 2 || (frame[0] != WHOLE_TEXT && frame[0] != WHOLE_BINARY)
        || (frame[1] & MASK_BIT) != (masked ? MASK_BIT : 0)) {
        return 0;
    }
    uint64_t size = frame[1] & LENGTH_BITS;
    Py_ssize_t header_size = 2;
    if (size >= LENGTH_16) {
        uint64_t minimum = size == LENGTH_16 ? LENGTH_16 : 0x10000;
        header_size = size == LENGTH_16 ? 4 : 10;
        if (available < header_size) {
            return 0;
        }
        size = 0;
        for (Py_ssize_t i = 2; i < header_size; i++) {
            size = size << 8 | frame[i];
        }
        /* 5.2: the minimal number of bytes MUST be used to encode the length. */
        if (size < minimum) {
            return 0;
        }
    }
    header_size += masked ? KEY_SIZE : 0;
    /* 5.2: the most significant bit of 64 MUST be 0; with it, the size is above every max_size. */
    if (size > max_size || available < header_size || size > (uint64_t)(available - header_size)) {
        return 0;
    }
    *length = (Py_ssize_t)size;
    return header_size;
}

/* `key` is NULL where nothing is masked, here and below. */
static PyObject *
read_binary(const unsigned char *payload, Py_ssize_t length, const unsigned char *key)
{
    if (key == NULL) {
        return PyBytes_FromStringAndSize((const char *)payload, length);
    }
    PyObject *message = PyBytes_FromStringAndSize(NULL, length);
    if (message != NULL) {
        xor_key((unsigned char *)PyBytes_AS_STRING(message), payload, length, key);
    }
    return message;
}

/* A masked text is taken for ASCII and unmasked right into the object that will be the message. If it was not
 * ASCII, that object has been the buffer from which it is decoded. */
static PyObject *
read_text(const unsigned char *payload, Py_ssize_t length, const unsigned char *key)
{
    if (key == NULL) {
        return PyUnicode_DecodeUTF8((const char *)payload, length, NULL);
    }
    PyObject *ascii = PyUnicode_New(length, 0x7F);
    if (ascii == NULL) {
        return NULL;
    }
    unsigned char *unmasked = PyUnicode_1BYTE_DATA(ascii);
    if (is_ascii(xor_key(unmasked, payload, length, key))) {
        return ascii;
    }
    PyObject *message = PyUnicode_DecodeUTF8((const char *)unmasked, length, NULL);
    Py_DECREF(ascii);
    return message;
}

/* Append the messages; return the offset behind the last one, or -1 with an exception. */
static Py_ssize_t
read_messages(const unsigned char *data, Py_ssize_t start, Py_ssize_t end, uint64_t max_size, int masked,
              PyObject *messages)
{
    Py_ssize_t header_size, length;
    while (PyList_GET_SIZE(messages) < AT_ONCE
           && (header_size = read_header(data + start, end - start, max_size, masked, &length)) != 0) {
        const unsigned char *payload = data + start + header_size;
        const unsigned char *key = masked ? payload - KEY_SIZE : NULL;
        int is_text = data[start] == WHOLE_TEXT;
        PyObject *message = is_text ? read_text(payload, length, key) : read_binary(payload, length, key);
        if (message == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
                return -1;
            }
            PyErr_Clear(); /* 8.1: not UTF-8; what follows from that is for the long path */
            break;
        }
        int failed = PyList_Append(messages, message);
        Py_DECREF(message);
        if (failed) {
            return -1;
        }
        start += header_size + length;
    }
    return start;
}

PyDoc_STRVAR(parse_messages_doc,
"parse_messages($module, data, start, end, max_size, masked, messages, /)\n--\n\n"
"Append the whole, unfragmented messages from start on, up to AT_ONCE; return the offset of the first byte left.");

static PyObject *
parse_messages(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 6) {
        return PyErr_Format(PyExc_TypeError, "parse_messages() takes 6 positional arguments, %zd given",
                            nargs);
    }
    Py_ssize_t numbers[3];
    for (int i = 0; i < 3; i++) {
        numbers[i] = PyNumber_AsSsize_t(args[1 + i], NULL); /* NULL: clipped where it does not fit */
        if (numbers[i] == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    Py_ssize_t start = numbers[0], end = numbers[1], max_size = numbers[2];
    int masked = PyObject_IsTrue(args[4]);
    if (masked < 0) {
        return NULL;
    }
    if (!PyList_Check(args[5])) {
        return PyErr_Format(PyExc_TypeError, "messages is a list, not %.200s", Py_TYPE(args[5])->tp_name);
    }
    Py_buffer data;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Py_ssize_t consumed = -1;
    if (start < 0 || start > end || end > data.len) {
        PyErr_Format(PyExc_ValueError, "start %S and end %S do not lie in order within %zd bytes",
                     args[1], args[2], data.len);
    }
    else if (max_size < 0) {
        consumed = start;
    }
    else {
        consumed = read_messages(data.buf, start, end, (uint64_t)max_size, masked, args[5]);
    }
    PyBuffer_Release(&data);
    return consumed < 0 ? NULL : PyLong_FromSsize_t(consumed);
}

/* ---- The base of Connection: a message in one frame, in and out ---- */

#define SPLIT_FROM 65536

typedef struct {
    PyObject_HEAD
    Py_ssize_t max_message_size;
    char between, masked, plain, eventful;
} EnginePath;

static PyObject *feed_rest_name, *encode_name; /* of the methods to which the rest is left */

static PyObject *
feed_rest(EnginePath *self, PyObject *data, Py_ssize_t start, Py_ssize_t end, PyObject *messages)
{
    PyObject *numbers[2] = {PyLong_FromSsize_t(start), PyLong_FromSsize_t(end)}, *result = NULL;
    if (numbers[0] != NULL && numbers[1] != NULL) {
        PyObject *args[] = {(PyObject *)self, data, numbers[0], numbers[1], messages};
        result = PyObject_VectorcallMethod(feed_rest_name, args, 5, NULL);
    }
    Py_XDECREF(numbers[0]);
    Py_XDECREF(numbers[1]);
    return result;
}

/* Append to `messages`; the offset of the first byte that is left, or -1 with an exception. *end is where the data
 * ends: before the call that may be -1 for all of it. */
static Py_ssize_t
feed_whole(EnginePath *self, PyObject *data, Py_ssize_t *end, PyObject *messages)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    Py_ssize_t start = -1;
    if (*end < 0) {
        *end = view.len;
    }
    if (*end > view.len) {
        PyErr_Format(PyExc_ValueError, "end %zd does not lie within %zd bytes", *end, view.len);
    }
    else if (!self->between) {
        start = 0;
    }
    else {
        start = read_messages(view.buf, 0, *end, (uint64_t)self->max_message_size, self->masked, messages);
    }
    PyBuffer_Release(&view);
    return start;
}

PyDoc_STRVAR(feed_doc,
"feed($self, data, end=None, /)\n--\n\n"
"The whole messages that data[:end] completes, in order, AT_ONCE at the most: stalled tells whether more wait\n"
"inside. data is not kept: the caller may reuse it.");

static PyObject *
feed(EnginePath *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        return PyErr_Format(PyExc_TypeError, "feed() takes 1 or 2 arguments, %zd given", nargs);
    }
    Py_ssize_t end = -1;
    if (nargs == 2 && args[1] != Py_None) {
        end = PyNumber_AsSsize_t(args[1], NULL);
        if (end < 0) {
            return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "end %zd is below 0", end);
        }
    }
    PyObject *messages = PyList_New(0);
    if (messages == NULL) {
        return NULL;
    }
    Py_ssize_t start = feed_whole(self, args[0], &end, messages);
    if (start >= 0 && (start < end || !self->between)) {
        PyObject *done = feed_rest(self, args[0], start, end, messages);
        start = done == NULL ? -1 : start;
        Py_XDECREF(done);
    }
    if (start < 0) {
        Py_CLEAR(messages);
    }
    return messages;
}

PyDoc_STRVAR(encode_doc,
"encode($self, message, binary=None, /)\n--\n\n"
"A whole message as one frame, or as (header, payload) where joining them would copy much.");

static PyObject *
encode(EnginePath *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        return PyErr_Format(PyExc_TypeError, "encode() takes 1 or 2 arguments, %zd given", nargs);
    }
    PyObject *message = args[0], *binary = nargs == 2 ? args[1] : Py_None;
    if (self->plain && binary == Py_None) {
        if (PyUnicode_CheckExact(message)) {
            return build_text_frame(WHOLE_TEXT, message, NULL);
        }
        if (PyBytes_CheckExact(message) && PyBytes_GET_SIZE(message) < SPLIT_FROM) {
            return build_frame(WHOLE_BINARY, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), NULL);
        }
    }
    PyObject *rest[] = {(PyObject *)self, message, binary};
    return PyObject_VectorcallMethod(encode_name, rest, 3, NULL);
}

static void
path_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

#define FUNCTION(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef path_methods[] = {
    {"feed", FUNCTION(feed), METH_FASTCALL, feed_doc},
    {"encode", FUNCTION(encode), METH_FASTCALL, encode_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef path_members[] = {
    {"_between", T_BOOL, offsetof(EnginePath, between), 0, NULL},
    {"_masked", T_BOOL, offsetof(EnginePath, masked), 0, NULL},
    {"_max_message_size", T_PYSSIZET, offsetof(EnginePath, max_message_size), 0, NULL},
    {"eventful", T_BOOL, offsetof(EnginePath, eventful), 0, NULL},
    {"plain", T_BOOL, offsetof(EnginePath, plain), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(path_doc, "The base of Connection: what a message in one frame costs, in and out.");

static PyType_Slot path_slots[] = {
    {Py_tp_doc, (void *)path_doc},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, path_dealloc},
    {Py_tp_methods, path_methods},
    {Py_tp_members, path_members},
    {0, NULL},
};

static PyType_Spec path_spec = {
    .name = "gws_middleware.protocol._speedups.EnginePath",
    .basicsize = sizeof(EnginePath),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = path_slots,
};

static int
fill_module(PyObject *module)
{
    feed_rest_name = PyUnicode_InternFromString("_feed_rest");
    encode_name = PyUnicode_InternFromString("_encode");
    PyObject *type = PyType_FromModuleAndSpec(module, &path_spec, NULL);
    if (feed_rest_name == NULL || encode_name == NULL || type == NULL) {
        return -1;
    }
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

/* ---- The module ---- */

static PyMethodDef functions[] = {
    {"mask", FUNCTION(mask), METH_FASTCALL, mask_doc},
    {"encode_frame", FUNCTION(encode_frame), METH_FASTCALL | METH_KEYWORDS, encode_frame_doc},
    {"parse_messages", FUNCTION(parse_messages), METH_FASTCALL, parse_messages_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill_module},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = "The hot paths of masking and frames in C.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
