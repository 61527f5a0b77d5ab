// Plain C++ for any processor; the compiler's baseline flags.
#include "kernels.h"

namespace redraft {

const Kernels* kernels_generic() {
    // No kernels: Python computes in torch where this table is in use.
    static const Kernels kernels{
        "generic",
#define KERNEL(result, name, parameters, arguments) nullptr,
        REDRAFT_KERNELS(KERNEL)
#undef KERNEL
    };
    return &kernels;
}

}  // namespace redraft
