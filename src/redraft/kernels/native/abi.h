// What every C entry of the library is declared with, and the version that Python compares before it calls any.
#pragma once

// Raise it together with ABI in kernels/library.py whenever an exported function is added or changes its arguments.
#define REDRAFT_ABI "5"

#if defined(_WIN32)
#define REDRAFT_EXPORT extern "C" __declspec(dllexport)
#else
#define REDRAFT_EXPORT extern "C" __attribute__((visibility("default")))
#endif
