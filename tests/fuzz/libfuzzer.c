/* libFuzzer's side of `make fuzz-native`: an interpreter in this process, and tests.fuzz.native.play for each
 * input. Coverage is of the extension, which is built with -fsanitize=fuzzer-no-link; Python itself is not
 * instrumented. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static PyObject *play;

static void give_up(void) {
    PyErr_Print();
    abort(); /* a crash as libFuzzer knows it: the input is kept */
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    /* The environment that the packages are in. */
    if (PyStatus_Exception(PyConfig_SetBytesString(&config, &config.program_name, getenv("FUZZ_PYTHON"))) ||
        PyStatus_Exception(Py_InitializeFromConfig(&config))) {
        fprintf(stderr, "python cannot be started: set FUZZ_PYTHON\n");
        return 1;
    }
    PyConfig_Clear(&config);
    PyObject *module = PyImport_ImportModule("tests.fuzz.native");
    if (module == NULL || (play = PyObject_GetAttrString(module, "play")) == NULL) give_up();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *done = PyObject_CallFunction(play, "y#", (const char *)data, (Py_ssize_t)size);
    if (done == NULL) give_up();
    Py_DECREF(done);
    return 0;
}
