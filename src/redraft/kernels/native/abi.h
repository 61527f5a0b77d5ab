// What every C entry of the library is declared with.
#pragma once

#if defined(_WIN32)
#define REDRAFT_EXPORT extern "C" __declspec(dllexport)
#else
#define REDRAFT_EXPORT extern "C" __attribute__((visibility("default")))
#endif
