/* `mask`, `encode_frame`, `parse_messages`, `FastEngine` and `Payload` in C. Rule: each does the same as the one of that
 * name in masking.py, frames.py or payload.py, for every call; its docstring there says what that is.
 * tests/test_parity.py compares the two, and the constants.
 *
 * Nothing is kept from one call to the next but the names of two methods.
 */

#include "../_native.h"

#include <stdint.h>
#include <string.h>

/* The bits of a frame's first two bytes (RFC 6455 5.2). */
#define WHOLE_TEXT 0x81   /* FIN, no RSV bit, opcode 1 */
#define WHOLE_BINARY 0x82 /* FIN, no RSV bit, opcode 2 */
#define MASKED 0x80
#define LENGTH 0x7F
#define LENGTH_16 126
#define LENGTH_64 127

#define KEY_SIZE 4
#define MAX_HEADER_SIZE 14
#define AT_ONCE 256
#define SPLIT_FROM 131072

/* ---- Masking (RFC 6455 5.3) ---- */

/* Write `source` XOR the repeated key to `target`. Return the OR of all bytes written, in eight lanes: frames_is_ascii()
 * reads it, and where the result is not used compilers leave it out. Of the first loop they make vector code. */
static inline uint64_t
masking_xor(unsigned char *restrict target, const unsigned char *restrict source, Py_ssize_t length,
            const unsigned char *key)
{
    uint64_t key_twice, word, written = 0;
    memcpy(&key_twice, key, KEY_SIZE);
    memcpy((unsigned char *)&key_twice + KEY_SIZE, key, KEY_SIZE);

    Py_ssize_t in_words = length - length % 8;
    for (Py_ssize_t i = 0; i < in_words; i += 8) {
        memcpy(&word, source + i, 8); /* neither side is aligned */
        word ^= key_twice;
        written |= word;
        memcpy(target + i, &word, 8);
    }
    for (Py_ssize_t i = in_words; i < length; i++) {
        target[i] = source[i] ^ key[i % KEY_SIZE];
        written |= target[i];
    }
    return written;
}

static int
masking_read_key(PyObject *object, unsigned char key[KEY_SIZE])
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

PyDoc_STRVAR(masking_mask_doc,
"mask($module, data, key, /)\n--\n\n"
"Mask the bytes of a payload, or unmask them: XOR with the repeated key (RFC 6455 5.3).\n\n"
"Args:\n"
"    data: Any contiguous buffer.\n"
"    key: A buffer of four bytes.\n\n"
"Returns:\n"
"    As many bytes as ``data`` has.\n\n"
"Raises:\n"
"    TypeError: An argument is no buffer.\n"
"    ValueError: The key does not have four bytes.\n"
"    BufferError: A buffer is not contiguous.");

static PyObject *
masking_mask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "mask() takes 2 arguments, %zd given", nargs);
    }
    unsigned char key[KEY_SIZE];
    Py_buffer data;
    if (masking_read_key(args[1], key) < 0 || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *result = PyBytes_FromStringAndSize(NULL, data.len);
    if (result != NULL) {
        masking_xor((unsigned char *)PyBytes_AS_STRING(result), data.buf, data.len, key);
    }
    PyBuffer_Release(&data);
    return result;
}

/* ---- Building a frame (RFC 6455 5.2) ---- */

/* `key` is NULL for a frame that is not masked. */
static PyObject *
frames_build(Py_ssize_t first_byte, const void *payload, Py_ssize_t length, const unsigned char *key)
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
    *target++ = (unsigned char)((key != NULL ? MASKED : 0) | length_code);
    for (int shift = 8 * (length_size - 1); shift >= 0; shift -= 8) { /* 5.2: network byte order */
        *target++ = (unsigned char)((uint64_t)length >> shift);
    }
    if (key == NULL) {
        memcpy(target, payload, (size_t)length);
    }
    else {
        memcpy(target, key, KEY_SIZE);
        masking_xor(target + KEY_SIZE, payload, length, key);
    }
    return frame;
}

static PyObject *
frames_build_text(Py_ssize_t first_byte, PyObject *text, const unsigned char *key)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0) {
        return NULL;
    }
#endif
    if (PyUnicode_IS_ASCII(text)) {
        return frames_build(first_byte, PyUnicode_1BYTE_DATA(text), PyUnicode_GET_LENGTH(text), key);
    }
    /* A temporary object and a copy of it are faster, as measured, than two loops of our own over the text (for the size,
     * then to write); unlike PyUnicode_AsUTF8AndSize() they leave no second copy in `text`. */
    PyObject *encoded = PyUnicode_AsUTF8String(text);
    if (encoded == NULL) {
        return NULL;
    }
    PyObject *frame = frames_build(first_byte, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded), key);
    Py_DECREF(encoded);
    return frame;
}

PyDoc_STRVAR(frames_encode_frame_doc,
"encode_frame($module, first_byte, payload, /, key=None)\n--\n\n"
"Build one whole frame (RFC 6455 5.2).\n\n"
"Args:\n"
"    first_byte: FIN, RSV1-3 and the opcode.\n"
"    payload: A text, which is encoded in UTF-8, or any contiguous buffer.\n"
"    key: The masking key, or None for a frame that is not masked.\n\n"
"Raises:\n"
"    TypeError: An argument has the wrong type.\n"
"    ValueError: A number is out of range, the key does not have four bytes, or the text has no UTF-8.\n"
"    BufferError: A buffer is not contiguous.");

static PyObject *
frames_encode_frame(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    static const NativeSignature signature = {"encode_frame", 2, 2, 3, {"first_byte", "payload", "key"}};
    PyObject *values[] = {NULL, NULL, Py_None};
    if (native_arguments(&signature, args, nargs, names, values) < 0) {
        return NULL;
    }
    Py_ssize_t first_byte = PyNumber_AsSsize_t(values[0], NULL); /* NULL: clipped where it does not fit */
    if (first_byte == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (first_byte < 0 || first_byte > 0xFF) {
        return PyErr_Format(PyExc_ValueError, "the first byte of a frame is 0 to 255, not %S", values[0]);
    }
    unsigned char key_bytes[KEY_SIZE];
    const unsigned char *key = NULL;
    if (values[2] != Py_None) {
        if (masking_read_key(values[2], key_bytes) < 0) {
            return NULL;
        }
        key = key_bytes;
    }
    if (PyUnicode_Check(values[1])) {
        return frames_build_text(first_byte, values[1], key);
    }
    Py_buffer payload;
    if (PyObject_GetBuffer(values[1], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *frame = frames_build(first_byte, payload.buf, payload.len, key);
    PyBuffer_Release(&payload);
    return frame;
}

/* ---- Parsing whole messages (RFC 6455 5.2) ---- */

/* The size of the header if `available` bytes hold a whole message in one frame that is certainly valid; else 0, and
 * connection.py reads the frame. */
static inline Py_ssize_t
frames_read_header(const unsigned char *frame, Py_ssize_t available, uint64_t max_size, int masked,
                   Py_ssize_t *length)
{
    /* 5.1: a client MUST mask, a server MUST NOT. */
    if (available < 2 || (frame[0] != WHOLE_TEXT && frame[0] != WHOLE_BINARY)
        || (frame[1] & MASKED) != (masked ? MASKED : 0)) {
        return 0;
    }
    uint64_t size = frame[1] & LENGTH;
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
    /* 5.2: the top bit of 64 MUST be 0. With that bit the size is above every max_size, which is a Py_ssize_t. */
    if (size > max_size || available < header_size || size > (uint64_t)(available - header_size)) {
        return 0;
    }
    *length = (Py_ssize_t)size;
    return header_size;
}

/* `key` is NULL for a payload that is not masked, here and below. */
static PyObject *
frames_read_binary(const unsigned char *payload, Py_ssize_t length, const unsigned char *key)
{
    if (key == NULL) {
        return PyBytes_FromStringAndSize((const char *)payload, length);
    }
    PyObject *message = PyBytes_FromStringAndSize(NULL, length);
    if (message != NULL) {
        masking_xor((unsigned char *)PyBytes_AS_STRING(message), payload, length, key);
    }
    return message;
}

static inline int
frames_is_ascii(uint64_t written)
{
    return (written & UINT64_C(0x8080808080808080)) == 0;
}

/* A masked text is unmasked into a new ASCII string, which most often is the message then. If the text is not ASCII, the
 * string has served as the buffer to decode from. So ASCII costs one pass and one object. */
static PyObject *
frames_read_text(const unsigned char *payload, Py_ssize_t length, const unsigned char *key)
{
    if (key == NULL) {
        return PyUnicode_DecodeUTF8((const char *)payload, length, NULL);
    }
    PyObject *ascii = PyUnicode_New(length, 0x7F);
    if (ascii == NULL) {
        return NULL;
    }
    unsigned char *unmasked = PyUnicode_1BYTE_DATA(ascii);
    if (frames_is_ascii(masking_xor(unmasked, payload, length, key))) {
        return ascii;
    }
    PyObject *message = PyUnicode_DecodeUTF8((const char *)unmasked, length, NULL);
    Py_DECREF(ascii);
    return message;
}

/* Append the messages; return the offset after the last one, or -1 with an exception. */
static Py_ssize_t
frames_append_messages(const unsigned char *data, Py_ssize_t start, Py_ssize_t end, uint64_t max_size, int masked,
                       PyObject *messages)
{
    Py_ssize_t header_size, length;
    while (PyList_GET_SIZE(messages) < AT_ONCE
           && (header_size = frames_read_header(data + start, end - start, max_size, masked, &length)) != 0) {
        const unsigned char *payload = data + start + header_size;
        const unsigned char *key = masked ? payload - KEY_SIZE : NULL;
        int is_text = data[start] == WHOLE_TEXT;
        PyObject *message = is_text ? frames_read_text(payload, length, key)
                                    : frames_read_binary(payload, length, key);
        if (message == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
                return -1;
            }
            PyErr_Clear(); /* 8.1: connection.py reads the frame again and fails the connection */
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

PyDoc_STRVAR(frames_parse_messages_doc,
"parse_messages($module, data, start, end, max_size, masked, messages, /)\n--\n\n"
"Append the whole, unfragmented messages at the beginning of ``data[start:end]`` to ``messages``.\n\n"
"Parsing stops before the first frame that is incomplete, a control frame or a fragment, has an RSV bit or the wrong\n"
"mask bit, has a length that is above ``max_size`` or not encoded in the fewest bytes, or is a text that is not\n"
"UTF-8. It also stops when ``messages`` has ``AT_ONCE`` items. No content of ``data`` raises an exception.\n\n"
"Args:\n"
"    data: Any contiguous buffer; it is not kept.\n"
"    start: The offset of the first byte to read.\n"
"    end: The offset after the last byte to read.\n"
"    max_size: Bytes of payload in one message.\n"
"    masked: Whether the frames must be masked.\n"
"    messages: Where ``str`` for text and ``bytes`` for binary messages are appended.\n\n"
"Returns:\n"
"    The offset of the first byte that was not consumed.\n\n"
"Raises:\n"
"    TypeError: An argument has the wrong type.\n"
"    ValueError: ``start`` and ``end`` do not lie in order within ``data``.\n"
"    BufferError: The buffer is not contiguous.");

static PyObject *
frames_parse_messages(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 6) {
        return PyErr_Format(PyExc_TypeError, "parse_messages() takes 6 arguments, %zd given", nargs);
    }
    Py_ssize_t numbers[3];
    for (int i = 0; i < 3; i++) {
        numbers[i] = PyNumber_AsSsize_t(args[1 + i], NULL);
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
        PyErr_Format(PyExc_ValueError, "start %S and end %S do not lie in order within %zd bytes", args[1], args[2],
                     data.len);
    }
    else if (max_size < 0) {
        consumed = start; /* an empty message, too, is above such a limit */
    }
    else {
        consumed = frames_append_messages(data.buf, start, end, (uint64_t)max_size, masked, args[5]);
    }
    PyBuffer_Release(&data);
    return native_size(consumed);
}

/* ---- The base of Connection ---- */

typedef struct {
    PyObject_HEAD
    Py_ssize_t max_message_size;
    char between, masked, plain, eventful;
} FastEngine;

/* The methods of the subclass that do everything else. */
#define NAMES(X) X(_feed_rest) X(_encode)
NAMES(NATIVE_DECLARE_NAME)

static int
engine_feed_rest(FastEngine *self, PyObject *data, Py_ssize_t start, Py_ssize_t end, PyObject *messages)
{
    PyObject *numbers[2] = {PyLong_FromSsize_t(start), PyLong_FromSsize_t(end)}, *result = NULL;
    if (numbers[0] != NULL && numbers[1] != NULL) {
        PyObject *args[] = {(PyObject *)self, data, numbers[0], numbers[1], messages};
        result = PyObject_VectorcallMethod(name__feed_rest, args, 5, NULL);
    }
    Py_XDECREF(numbers[0]);
    Py_XDECREF(numbers[1]);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Append the whole messages at the beginning of data[:*end] to `messages`. Return the offset of the first byte that was
 * not consumed, or -1 with an exception. *end becomes the size of the data where `end_given` is None. */
static Py_ssize_t
engine_append_messages(FastEngine *self, PyObject *data, PyObject *end_given, Py_ssize_t *end, PyObject *messages)
{
    Py_buffer view; /* released before _feed_rest() is called, which may run any code */
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    Py_ssize_t start = -1;
    if (end_given == Py_None) {
        *end = view.len;
    }
    if (*end < 0 || *end > view.len) {
        PyErr_Format(PyExc_ValueError, "end %S does not lie within %zd bytes", end_given, view.len);
    }
    else if (!self->between || self->max_message_size < 0) {
        start = 0;
    }
    else {
        start = frames_append_messages(view.buf, 0, *end, (uint64_t)self->max_message_size, self->masked, messages);
    }
    PyBuffer_Release(&view);
    return start;
}

PyDoc_STRVAR(engine_feed_doc,
"feed($self, data, end=None, /)\n--\n\n"
"Take bytes of the peer.\n\n"
"Args:\n"
"    data: A buffer; it is not kept, so the caller may use it again.\n"
"    end: How many bytes of ``data`` to take. Default: all.\n\n"
"Returns:\n"
"    The whole messages that these bytes complete, in order, at most ``AT_ONCE``. ``stalled`` then says whether\n"
"    more of them wait inside.\n\n"
"Raises:\n"
"    ValueError: ``end`` does not lie within ``data``.");

static PyObject *
engine_feed(FastEngine *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        return PyErr_Format(PyExc_TypeError, "feed() takes 1 or 2 arguments, %zd given", nargs);
    }
    PyObject *end_given = nargs == 2 ? args[1] : Py_None;
    Py_ssize_t end = -1;
    if (end_given != Py_None) {
        end = PyNumber_AsSsize_t(end_given, NULL); /* NULL: clipped where it does not fit */
        if (end == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    PyObject *messages = PyList_New(0);
    if (messages == NULL) {
        return NULL;
    }
    Py_ssize_t start = engine_append_messages(self, args[0], end_given, &end, messages);
    int failed = start < 0;
    if (!failed && (start < end || !self->between)) {
        failed = engine_feed_rest(self, args[0], start, end, messages) < 0;
    }
    if (failed) {
        Py_CLEAR(messages);
    }
    return messages;
}

PyDoc_STRVAR(engine_encode_doc,
"encode($self, message, binary=None, /)\n--\n\n"
"Build the frame of a whole message.\n\n"
"Args:\n"
"    message: ``str``, ``bytes``, ``bytearray``, ``memoryview``, a number, or what ``prepare()`` returns.\n"
"    binary: Whether it is sent as a binary message. Default: ``str`` and numbers are text, buffers are binary.\n\n"
"Returns:\n"
"    The frame, or (header, payload) from about ``SPLIT_FROM`` bytes on, where joining them would copy much.\n\n"
"Raises:\n"
"    TypeError: Not a message.\n"
"    ValueError: It cannot be sent as text, because it has no UTF-8 or is none.");

static PyObject *
engine_encode(FastEngine *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        return PyErr_Format(PyExc_TypeError, "encode() takes 1 or 2 arguments, %zd given", nargs);
    }
    PyObject *message = args[0], *binary = nargs == 2 ? args[1] : Py_None;
    if (self->plain && binary == Py_None) {
        if (PyUnicode_CheckExact(message) && PyUnicode_GET_LENGTH(message) < SPLIT_FROM / 2) {
            return frames_build_text(WHOLE_TEXT, message, NULL);
        }
        if (PyBytes_CheckExact(message) && PyBytes_GET_SIZE(message) < SPLIT_FROM) {
            return frames_build(WHOLE_BINARY, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), NULL);
        }
    }
    PyObject *all[] = {(PyObject *)self, message, binary};
    return PyObject_VectorcallMethod(name__encode, all, 3, NULL);
}

static PyMethodDef engine_methods[] = {
    {"feed", NATIVE_METHOD(engine_feed), METH_FASTCALL, engine_feed_doc},
    {"encode", NATIVE_METHOD(engine_encode), METH_FASTCALL, engine_encode_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef engine_members[] = {
    {"_between", T_BOOL, offsetof(FastEngine, between), 0, NULL},
    {"_masked", T_BOOL, offsetof(FastEngine, masked), 0, NULL},
    {"_max_message_size", T_PYSSIZET, offsetof(FastEngine, max_message_size), 0, NULL},
    {"eventful", T_BOOL, offsetof(FastEngine, eventful), 0, NULL},
    {"plain", T_BOOL, offsetof(FastEngine, plain), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(engine_doc,
"The base of ``Connection``: the fast path of a message in one frame, in and out.\n\n"
"Everything else is a method of the subclass: ``_feed_rest`` and ``_encode``.");

/* No object of the type refers to another object, so there is nothing for the garbage collector to visit. A subclass
 * with attributes of its own is visited by CPython. */
static PyType_Slot engine_slots[] = {
    {Py_tp_doc, (void *)engine_doc},
    {Py_tp_dealloc, native_dealloc},
    {Py_tp_methods, engine_methods},
    {Py_tp_members, engine_members},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    .name = "gws_middleware.protocol._speedups.FastEngine",
    .basicsize = sizeof(FastEngine),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};

/* ---- The payload of a message that comes in pieces ---- */

/* The first `used` bytes of `bytes` are the payload; the rest is room. NULL: there is nothing. No other
 * object refers to it before payload_take() returns it: so it may grow, and is not copied at the end. */
typedef struct {
    PyObject_HEAD
    PyObject *bytes;
    Py_ssize_t used;
} Payload;

static int
payload_init(Payload *self, PyObject *args, PyObject *names)
{
    if (PyTuple_GET_SIZE(args) > 0 || (names != NULL && PyDict_GET_SIZE(names) > 0)) {
        PyErr_SetString(PyExc_TypeError, "Payload() takes no arguments");
        return -1;
    }
    Py_CLEAR(self->bytes);
    self->used = 0;
    return 0;
}

static void
payload_dealloc(Payload *self)
{
    Py_CLEAR(self->bytes);
    native_dealloc((PyObject *)self);
}

static Py_ssize_t
payload_length(Payload *self)
{
    return self->used;
}

/* So many times what has come is reserved at most, of what is announced: a message of 1 MiB does not move after the first
 * read. What is reserved and not written takes no memory of the machine. */
#define RESERVED 16

/* Make room for `size` more bytes, and for what is to come. It grows by an eighth at least: what comes in many frames,
 * byte by byte, is not copied for each. */
static int
payload_reserve(Payload *self, Py_ssize_t size, Py_ssize_t to_come)
{
    if (size > PY_SSIZE_T_MAX / (2 * RESERVED) - self->used) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t needed = self->used + size;
    if (self->bytes != NULL && needed <= PyBytes_GET_SIZE(self->bytes)) {
        return 0;
    }
    Py_ssize_t room = to_come / RESERVED <= needed ? to_come : (RESERVED - 1) * needed;
    room = Py_MAX(room, self->used / 8 - size);
    if (self->bytes == NULL) {
        self->bytes = PyBytes_FromStringAndSize(NULL, needed + room);
        return self->bytes == NULL ? -1 : 0;
    }
    if (_PyBytes_Resize(&self->bytes, needed + room) < 0) {
        self->used = 0; /* the object was freed */
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(payload_add_doc,
"add($self, piece, key, to_come, /)\n--\n\n"
"Append a piece.\n\n"
"Args:\n"
"    piece: Any contiguous buffer; it is not kept.\n"
"    key: The key to unmask it with (RFC 6455 5.3), turned to its first byte; None where it is not masked.\n"
"    to_come: How many bytes are announced to follow.\n\n"
"Returns:\n"
"    Whether it is ASCII.\n\n"
"Raises:\n"
"    TypeError: An argument has the wrong type.\n"
"    ValueError: The key does not have four bytes, or ``to_come`` is negative.\n"
"    BufferError: A buffer is not contiguous.");

static PyObject *
payload_add(Payload *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        return PyErr_Format(PyExc_TypeError, "add() takes 3 arguments, %zd given", nargs);
    }
    unsigned char key[KEY_SIZE] = {0};
    Py_ssize_t to_come = PyNumber_AsSsize_t(args[2], NULL); /* NULL: clipped where it does not fit */
    if ((to_come == -1 && PyErr_Occurred()) || (args[1] != Py_None && masking_read_key(args[1], key) < 0)) {
        return NULL;
    }
    if (to_come < 0) {
        return PyErr_Format(PyExc_ValueError, "a number of bytes to come is not negative, as %S is", args[2]);
    }
    Py_buffer piece;
    if (PyObject_GetBuffer(args[0], &piece, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int failed = payload_reserve(self, piece.len, to_come) < 0;
    uint64_t written = 0;
    if (!failed) { /* with a key of zeros this copies */
        written = masking_xor((unsigned char *)PyBytes_AS_STRING(self->bytes) + self->used, piece.buf, piece.len, key);
        self->used += piece.len;
    }
    PyBuffer_Release(&piece);
    return failed ? NULL : PyBool_FromLong(frames_is_ascii(written));
}

PyDoc_STRVAR(payload_part_doc,
"part($self, start, end, /)\n--\n\n"
"The bytes from one offset to another; as many of them as there are.");

static PyObject *
payload_part(Payload *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "part() takes 2 arguments, %zd given", nargs);
    }
    Py_ssize_t ends[2];
    for (int i = 0; i < 2; i++) {
        ends[i] = PyNumber_AsSsize_t(args[i], NULL);
        if (ends[i] == -1 && PyErr_Occurred()) {
            return NULL;
        }
        ends[i] = Py_MAX(0, Py_MIN(ends[i], self->used));
    }
    if (ends[0] >= ends[1]) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self->bytes) + ends[0], ends[1] - ends[0]);
}

PyDoc_STRVAR(payload_take_doc,
"take($self, /)\n--\n\n"
"All of it, after which nothing is left here.");

static PyObject *
payload_take(Payload *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *bytes = self->bytes;
    Py_ssize_t used = self->used;
    self->bytes = NULL;
    self->used = 0;
    if (bytes == NULL) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    if (used < PyBytes_GET_SIZE(bytes)) {
        _PyBytes_Resize(&bytes, used); /* NULL where that failed */
    }
    return bytes;
}

static PyMethodDef payload_methods[] = {
    {"add", NATIVE_METHOD(payload_add), METH_FASTCALL, payload_add_doc},
    {"part", NATIVE_METHOD(payload_part), METH_FASTCALL, payload_part_doc},
    {"take", NATIVE_METHOD(payload_take), METH_NOARGS, payload_take_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(payload_doc,
"Bytes that are put together as they come. They are kept as bytes: as text CPython could need four times as much.\n\n"
"The memory that is reserved is at most 17 times what has come, and that is used grows with what comes.");

static PyType_Slot payload_slots[] = {
    {Py_tp_doc, (void *)payload_doc},
    {Py_tp_init, payload_init},
    {Py_tp_dealloc, payload_dealloc},
    {Py_sq_length, payload_length},
    {Py_tp_methods, payload_methods},
    {0, NULL},
};

static PyType_Spec payload_spec = {
    .name = "gws_middleware.protocol._speedups.Payload",
    .basicsize = sizeof(Payload),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = payload_slots,
};

/* ---- The module ---- */

/* The constants are here for the test that compares them with those of frames.py. */
static int
speedups_fill_module(PyObject *module)
{
    NAMES(NATIVE_INTERN_NAME)
    if (native_add_type(module, &engine_spec) == NULL || native_add_type(module, &payload_spec) == NULL
        || PyModule_AddIntMacro(module, WHOLE_TEXT) < 0
        || PyModule_AddIntMacro(module, WHOLE_BINARY) < 0 || PyModule_AddIntMacro(module, MASKED) < 0
        || PyModule_AddIntMacro(module, LENGTH) < 0 || PyModule_AddIntMacro(module, LENGTH_16) < 0
        || PyModule_AddIntMacro(module, LENGTH_64) < 0 || PyModule_AddIntMacro(module, AT_ONCE) < 0
        || PyModule_AddIntMacro(module, SPLIT_FROM) < 0) {
        return -1;
    }
    return 0;
}

static PyMethodDef speedups_functions[] = {
    {"mask", NATIVE_METHOD(masking_mask), METH_FASTCALL, masking_mask_doc},
    {"encode_frame", NATIVE_METHOD(frames_encode_frame), METH_FASTCALL | METH_KEYWORDS, frames_encode_frame_doc},
    {"parse_messages", NATIVE_METHOD(frames_parse_messages), METH_FASTCALL, frames_parse_messages_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot speedups_slots[] = {
    {Py_mod_exec, speedups_fill_module},
    NATIVE_ONE_INTERPRETER
    {0, NULL},
};

static struct PyModuleDef speedups_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = "The fast paths of masking.py, frames.py and payload.py in C.",
    .m_methods = speedups_functions,
    .m_slots = speedups_slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&speedups_definition);
}
