"""One read on the host of all that it needs of a device: each waits until the device has done what came before."""

import torch
from torch import Tensor


def on_cpu(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors on the CPU, all of them by one copy."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return tensors
    if len(tensors) == 1:
        return (tensors[0].cpu(),)
    # The widest first, so that each starts where its numbers may.
    order = sorted(range(len(tensors)), key=lambda index: -tensors[index].dtype.itemsize)
    whole = torch.cat([tensors[index].contiguous().flatten().view(torch.uint8) for index in order]).cpu()
    found: dict[int, Tensor] = {}
    start = 0
    for index in order:
        given = tensors[index]
        end = start + given.numel() * given.dtype.itemsize
        found[index] = whole[start:end].view(given.dtype).view(given.shape)
        start = end
    return tuple(found[index] for index in range(len(tensors)))
