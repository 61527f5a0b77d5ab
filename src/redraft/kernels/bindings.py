"""The library's C entries as Python callables, with the structures of native/formats.h."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from redraft.kernels.library import Library, native
from redraft.kernels.packed import FORMATS, Format, PackedMatrix

_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float


class CMatrix(ctypes.Structure):
    """``Matrix`` of native/formats.h."""

    _fields_ = (
        ("format", _I),
        ("gated", _I),
        ("outputs", _L),
        ("inputs", _L),
        ("padded_outputs", _L),
        ("padded_inputs", _L),
        ("data", _P),
        ("scales", _P),
    )


class CNorm(ctypes.Structure):
    """``Norm`` of native/formats.h."""

    _fields_ = (("weight", _P), ("epsilon", _F))


class CStretch(ctypes.Structure):
    """``Stretch`` of native/formats.h."""

    _fields_ = (
        ("keys", _P),
        ("values", _P),
        ("count", _L),
        ("key_stride", _L),
        ("value_stride", _L),
        ("mask", _P),
    )


class CAttention(ctypes.Structure):
    """``Attention`` of native/formats.h."""

    _fields_ = (
        ("format", _I),
        ("stretches", _I),
        ("heads", _L),
        ("kv_heads", _L),
        ("length", _L),
        ("head_dim", _L),
        ("queries", _P),
        ("stretch", ctypes.POINTER(CStretch)),
        ("out", _P),
    )


class CClasses(ctypes.Structure):
    """``Classes`` of native/formats.h."""

    _fields_ = (
        ("count", _L),
        ("heavy", _L),
        ("middle", _L),
        ("light", _L),
        ("token_class", _P),
        ("start", _P),
        ("tokens", _P),
        ("heavy_class", _P),
        ("middle_class", _P),
        ("light_token", _P),
        ("first", _P),
        ("mass", _P),
        ("plogp", _P),
        ("peak", _P),
        ("argmax", _P),
        ("references", _P),
        ("tile_masses", _P),
        ("region_peaks", _P),
        ("region_masses", _P),
    )


class CReadout(ctypes.Structure):
    """``Readout`` of native/formats.h."""

    _fields_ = (
        ("rows", _L),
        ("hidden", _P),
        ("table", ctypes.POINTER(CMatrix)),
        ("softcap", _F),
        ("temperature", _F),
        ("embedding_scale", _F),
        ("top_k", _I),
        ("uniforms", _P),
        ("classes", ctypes.POINTER(CClasses)),
        ("argmax", _P),
        ("sample", _P),
        ("entropy", _P),
        ("confidence", _P),
        ("signal", _P),
        ("top_ids", _P),
        ("top_logprobs", _P),
    )


class CClassDraw(ctypes.Structure):
    """``ClassDraw`` of native/formats.h."""

    _fields_ = (
        ("count", _L),
        ("rows", _L),
        ("hidden", _P),
        ("table", ctypes.POINTER(CMatrix)),
        ("softcap", _F),
        ("temperature", _F),
        ("classes", ctypes.POINTER(CClasses)),
        ("position", _P),
        ("number", _P),
        ("uniforms", _P),
        ("tokens", _P),
    )


class CChain(ctypes.Structure):
    """``Chain`` of native/chain.h."""

    _fields_ = (
        ("length", _L),
        ("states", _L),
        ("classes", _L),
        ("groups", _L),
        ("edge_start", _P),
        ("edge_target", _P),
        ("edge_group", _P),
        ("group_start", _P),
        ("group_class", _P),
        ("start", _L),
        ("end", _P),
        ("total", _P),
        ("spread", _P),
        ("peak", _P),
        ("best_tail", _P),
        ("uniforms", _P),
        ("best_states", _P),
        ("sampled_states", _P),
        ("best_classes", _P),
        ("sampled_classes", _P),
        ("log_multiplier", _P),
        ("tail", _P),
        ("entropy", _P),
        ("best_logprob", _P),
        ("log_valid", _P),
    )


class CLayer(ctypes.Structure):
    """``Layer`` of native/layer.h."""

    _fields_ = (
        ("qkv", CMatrix),
        ("o", CMatrix),
        ("gate_up", CMatrix),
        ("down", CMatrix),
        ("router", CMatrix),
        ("experts_gate_up", CMatrix),
        ("experts_down", CMatrix),
        ("hidden", _L),
        ("heads", _L),
        ("kv_heads", _L),
        ("head_dim", _L),
        ("experts", _L),
        ("top_k", _L),
        ("values_are_keys", _I),
        ("kv_format", _I),
        ("epsilon", _F),
        ("input_norm", _P),
        ("q_norm", _P),
        ("k_norm", _P),
        ("post_attention", _P),
        ("dense_norm", _P),
        ("experts_norm", _P),
        ("post_dense", _P),
        ("post_experts", _P),
        ("post_feedforward", _P),
        ("expert_scale", _P),
    )


class CScaledRows(ctypes.Structure):
    """``ScaledRows`` of native/layer.h."""

    _fields_ = (("start", _L), ("end", _L), ("scalar", _F))


class CCanvasForward(ctypes.Structure):
    """``CanvasForward`` of native/layer.h."""

    _fields_ = (
        ("layers", _L),
        ("count", _L),
        ("layer", ctypes.POINTER(ctypes.POINTER(CLayer))),
        ("attention", ctypes.POINTER(CAttention)),
        ("cosines", ctypes.POINTER(_P)),
        ("sines", ctypes.POINTER(_P)),
        ("scalars", ctypes.POINTER(_F)),
    )


_MATRIX, _NORM = ctypes.POINTER(CMatrix), ctypes.POINTER(CNorm)
_ENTRIES: dict[str, tuple[Any, ...]] = {
    "redraft_linear": (_MATRIX, _P, _L, _L, _NORM, _P, _L),
    "redraft_experts": (_MATRIX, _MATRIX, _L, _P, _L, _L, _NORM, _P, _P, _L, _P, _L),
    "redraft_attention": (ctypes.POINTER(CAttention),),
    "redraft_readout": (ctypes.POINTER(CReadout),),
    "redraft_draw_from_classes": (ctypes.POINTER(CClassDraw),),
    "redraft_split_heads": (_P, _L, _L, _L, _L, _P, _F, _P, _P, _I, _P, _L),
    "redraft_project": (ctypes.POINTER(CLayer), _P, _L, _P, _P, _P, _P, _P),
    "redraft_finish": (ctypes.POINTER(CLayer), _P, _L, _P, ctypes.POINTER(CScaledRows), _L),
    "redraft_denoise": (ctypes.POINTER(CCanvasForward), _P),
    "redraft_infer": (ctypes.POINTER(CChain),),
    "redraft_add_normed": (_P, _P, _P, _P, _P, _P, _F, _F, _L, _L),
}


def kernels() -> Library | None:
    """The library where it has kernels for this processor, else None: the torch twins do the work."""
    library = native()
    return None if library is None or library.tier == "generic" else library


@cache
def entry(name: str) -> Callable[..., None]:
    """The C entry ``name``; ``kernels()`` must not be None."""
    library = native()
    assert library is not None, "entries are only looked up where there is a library"
    return library.function(name, None, *_ENTRIES[name])


def saturate(format: int, rounds: int) -> int:
    """Keep every thread of the kernels busy with multiply-adds in a format, and return how many were done."""
    library = native()
    assert library is not None, "only called where there is a library"
    return int(library.function("redraft_saturate", ctypes.c_int64, _I, _L)(format, rounds))


def signal_format(table: Format) -> Format:
    """What a readout sums the signal in, for a vocabulary packed in the format ``table``."""
    if kernels() is None:
        return "float32" if table == "float32" else "bfloat16"
    library = native()
    assert library is not None, "there are kernels"
    return FORMATS[library.function("redraft_signal_format", _I, _I)(format_number(table))]


def format_number(name: str) -> int:
    """A format's number in native/formats.h."""
    return FORMATS.index(name)


def pointer(tensor: Tensor | None) -> int | None:
    """Where a tensor's first element lies; None stays a null pointer."""
    return None if tensor is None else tensor.data_ptr()


def matrix(packed: PackedMatrix) -> CMatrix:
    """``packed`` for C; it must outlive what this returns."""
    return CMatrix(
        format=format_number(packed.format),
        gated=packed.gated,
        outputs=packed.outputs,
        inputs=packed.inputs,
        padded_outputs=packed.padded_outputs,
        padded_inputs=packed.padded_inputs,
        data=packed.data.data_ptr(),
        scales=packed.scales.data_ptr(),
    )


def rows(x: Tensor) -> Tensor:
    """``x`` [count, width] as float32 whose rows are contiguous, without a copy where it is so already."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def floats(count: int, width: int) -> Tensor:
    """Room for results."""
    return torch.empty(count, width)
