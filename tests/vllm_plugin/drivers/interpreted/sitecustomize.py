"""Let vLLM run on a CPU without a Triton compiler: its kernels are interpreted, in each process that it starts.

vLLM looks for a driver of a backend named "cpu", which only a build of its own has; Triton's interpreter needs none.
And torchvision's wheel is linked to CUDA: on torch for CPUs its own operators are missing, of which two are described
when it is imported. None of them is called here.
"""

import os
from types import SimpleNamespace

if os.environ.get("TRITON_INTERPRET") == "1":
    import torch
    from triton.backends import backends

    backends.setdefault("cpu", SimpleNamespace(driver=SimpleNamespace(is_active=lambda: False)))
    MISSING = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            MISSING.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
