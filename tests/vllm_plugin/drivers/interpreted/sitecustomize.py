"""Let vLLM run on a CPU without a Triton compiler: its kernels are interpreted, in each process that it starts.

vLLM looks for a driver of a backend named "cpu", which only a build of its own has; Triton's interpreter needs none.
"""

import os
from types import SimpleNamespace

if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.backends import backends

    backends.setdefault("cpu", SimpleNamespace(driver=SimpleNamespace(is_active=lambda: False)))
