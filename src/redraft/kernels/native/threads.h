// A small persistent pool of threads. Work is handed out index by index; nothing is allocated per call.
#pragma once

namespace redraft {

// The number of threads that parallel_for uses, the calling one included.
int threads();

// Runs task(context, index) for every index in [0, count) and returns when all are done. Which thread runs which index
// is not fixed, so results must not depend on it. Calls from several threads take turns; a call from inside a task, or
// with one index, runs on the calling thread alone. A task must not throw.
void parallel_run(int count, void (*task)(const void* context, int index), const void* context);

// The same for anything that can be called with an index. The lambdas of an isa_*.cpp are types of that file alone, so
// this inline function is not shared between instruction sets.
template <class Body>
void parallel_for(int count, const Body& body) {
    parallel_run(count, [](const void* context, int index) { (*static_cast<const Body*>(context))(index); }, &body);
}

}  // namespace redraft
