// Plain C++ for any processor; the compiler's baseline flags.
#include "kernels.h"

namespace redraft {

const Kernels* kernels_generic() {
    static const Kernels kernels{
        "generic",
    };
    return &kernels;
}

}  // namespace redraft
