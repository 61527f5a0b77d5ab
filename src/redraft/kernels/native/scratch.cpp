#include "scratch.h"

#include <cstdlib>
#include <new>

namespace redraft {
namespace {

struct Buffers {
    void* data[static_cast<int>(Slot::count)] = {};
    std::size_t size[static_cast<int>(Slot::count)] = {};
    ~Buffers() {
        for (void* buffer : data) std::free(buffer);
    }
};

thread_local Buffers buffers;

}  // namespace

void* scratch(Slot slot, std::size_t bytes) {
    const int index = static_cast<int>(slot);
    if (buffers.size[index] < bytes) {
        std::free(buffers.data[index]);
        // Half as much again, so that a context that grows does not reallocate at every step.
        const std::size_t size = (bytes + bytes / 2 + 127) / 64 * 64;
        buffers.data[index] = std::aligned_alloc(64, size);
        buffers.size[index] = buffers.data[index] ? size : 0;
        if (!buffers.data[index]) throw std::bad_alloc();
    }
    return buffers.data[index];
}

}  // namespace redraft
