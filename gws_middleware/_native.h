/* What the extension modules share: method tables, arguments, names of attributes, exceptions, versions of CPython.
 *
 * Rule: all of it is `static inline` or a macro, because each module is compiled by itself, and what a module does not
 * use costs nothing. Each function of a module has the module's prefix (`frames_`, `channel_`); what is here has `native_`.
 */

#ifndef GWS_NATIVE_H
#define GWS_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <structmember.h>

/* ---- Tables ---- */

/* CPython calls a method by the convention in its flags; through this pointer type a cast is no warning. */
#define NATIVE_METHOD(function) ((PyCFunction)(void (*)(void))(function))

/* Modules with static variables can be loaded by one interpreter only. */
#if PY_VERSION_HEX >= 0x030C0000
#define NATIVE_ONE_INTERPRETER {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#define NATIVE_EACH_INTERPRETER {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define NATIVE_ONE_INTERPRETER
#define NATIVE_EACH_INTERPRETER
#endif

/* The module has no state that two threads could change at a time. */
#if PY_VERSION_HEX >= 0x030D0000
#define NATIVE_NEEDS_NO_GIL {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#else
#define NATIVE_NEEDS_NO_GIL
#endif

/* ---- Names of attributes and methods ----
 *
 * A module lists the names it uses: `#define NAMES(X) X(send) X(recv_into)`. `NAMES(NATIVE_DECLARE_NAME)` declares
 * `name_send` and `name_recv_into`, `NAMES(NATIVE_INTERN_NAME)` fills them in a function that returns -1 on failure. */

#define NATIVE_DECLARE_NAME(name) static PyObject *name_##name;
#define NATIVE_INTERN_NAME(name)                                                                              \
    if ((name_##name = PyUnicode_InternFromString(#name)) == NULL) {                                          \
        return -1;                                                                                            \
    }

/* ---- Arguments (METH_FASTCALL | METH_KEYWORDS) ---- */

#define NATIVE_MAX_ARGUMENTS 3

typedef struct {
    const char *function;
    Py_ssize_t positional_only; /* so many parameters cannot be passed by name */
    Py_ssize_t required;        /* so many have no default */
    Py_ssize_t count;
    const char *parameters[NATIVE_MAX_ARGUMENTS];
} NativeSignature;

/* The position of the parameter that is called `name`, or -1 with an exception. */
static inline Py_ssize_t
native_find_parameter(const NativeSignature *signature, PyObject *name)
{
    for (Py_ssize_t i = signature->positional_only; i < signature->count; i++) {
        if (PyUnicode_CompareWithASCIIString(name, signature->parameters[i]) == 0) {
            return i;
        }
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", signature->function, name);
    return -1;
}

/* Store the arguments of a call in `values`, which holds the defaults (NULL where there is none). 0, or -1 with a
 * TypeError. The references are borrowed from the call. */
static inline int
native_arguments(const NativeSignature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *names,
                 PyObject **values)
{
    if (nargs > signature->count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments, %zd given", signature->function,
                     signature->count, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        values[i] = args[i];
    }
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = 0; i < named; i++) {
        Py_ssize_t position = native_find_parameter(signature, PyTuple_GET_ITEM(names, i));
        if (position < 0) {
            return -1;
        }
        if (position < nargs) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument %R", signature->function,
                         PyTuple_GET_ITEM(names, i));
            return -1;
        }
        values[position] = args[nargs + i];
    }
    for (Py_ssize_t i = 0; i < signature->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() is missing the argument '%s'", signature->function,
                         signature->parameters[i]);
            return -1;
        }
    }
    return 0;
}

/* ---- Exceptions ---- */

/* Take the exception that has been raised, as an object with its traceback; NULL where there is none. Python 3.12 has a
 * function for it. */
static inline PyObject *
native_take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *exception, *traceback;
    PyErr_Fetch(&type, &exception, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &exception, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(exception, traceback);
    }
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return exception;
#endif
}

/* Raise again what native_take_exception() has returned, and release the reference. */
static inline void
native_raise_again(PyObject *exception)
{
    if (exception == NULL) {
        return;
    }
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exception);
#else
    PyErr_Restore(Py_NewRef(Py_TYPE(exception)), exception, PyException_GetTraceback(exception));
#endif
}

/* ---- Results ---- */

/* None, or NULL where `failed` says that an exception is set. */
static inline PyObject *
native_none(int failed)
{
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* An int, or NULL where a negative size says that an exception is set. */
static inline PyObject *
native_size(Py_ssize_t size)
{
    return size < 0 ? NULL : PyLong_FromSsize_t(size);
}

/* ---- Types and constants of a module ---- */

/* Add the type of `spec` to the module. A borrowed reference, or NULL with an exception. */
static inline PyObject *
native_add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) {
        return NULL;
    }
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type); /* the module has one */
    return failed ? NULL : type;
}

static inline int
native_add_double(PyObject *module, const char *name, double value)
{
    PyObject *number = PyFloat_FromDouble(value);
    if (number == NULL) {
        return -1;
    }
    int failed = PyModule_AddObjectRef(module, name, number);
    Py_DECREF(number);
    return failed;
}

/* The destructor of a type whose objects refer to no object but their type. */
static inline void
native_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The destructor of a type with tp_traverse; `clear` is its tp_clear. */
static inline void
native_dealloc_collected(PyObject *self, inquiry clear)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    native_dealloc(self);
}

#endif
