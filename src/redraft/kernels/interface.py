"""The C interface of the library as ``ctypes`` knows it: the structures of native/*.h, and what the entries take.

Each structure bears its name in C behind a C, and the names and order of its members. Sizes and constants are compared
with the library's when it is loaded.
"""

import ctypes
from typing import Any

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
        ("bias", _P),
    )


class CNorm(ctypes.Structure):
    """``Norm`` of native/formats.h."""

    _fields_ = (("weight", _P), ("epsilon", _F))


class CHeads(ctypes.Structure):
    """``Heads`` of native/formats.h."""

    _fields_ = (
        ("heads", _L),
        ("dim", _L),
        ("norm", ctypes.POINTER(CNorm)),
        ("cosines", _P),
        ("sines", _P),
        ("positions", _P),
        ("scale", _F),
        ("format", _I),
    )


class CBranches(ctypes.Structure):
    """``Branches`` of native/formats.h."""

    _fields_ = (
        ("branch", _P),
        ("branch_norm", ctypes.POINTER(CNorm)),
        ("other", _P),
        ("other_norm", ctypes.POINTER(CNorm)),
        ("norm", ctypes.POINTER(CNorm)),
        ("scalar", _F),
    )


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
        ("query_stride", _L),
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


class CShaping(ctypes.Structure):
    """``Shaping`` of native/formats.h."""

    _fields_ = (
        ("token", _P),
        ("added", _P),
        ("factor", _P),
        ("first_token", _P),
        ("first_value", _P),
        ("changed", _P),
        ("top_k", _P),
        ("top_p", _P),
        ("lowest", _P),
        ("cut", _P),
        ("last", _P),
    )


class CReadout(ctypes.Structure):
    """``Readout`` of native/formats.h."""

    _fields_ = (
        ("rows", _L),
        ("hidden", _P),
        ("table", ctypes.POINTER(CMatrix)),
        ("softcap", _F),
        ("embedding_scale", _F),
        ("temperatures", _P),
        ("top_k", _I),
        ("uniforms", _P),
        ("classes", ctypes.POINTER(CClasses)),
        ("shaping", ctypes.POINTER(CShaping)),
        ("argmax", _P),
        ("sample", _P),
        ("entropy", _P),
        ("confidence", _P),
        ("self_conditioning", _P),
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
        ("temperatures", _P),
        ("classes", ctypes.POINTER(CClasses)),
        ("shaping", ctypes.POINTER(CShaping)),
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
        ("values_normed", _I),
        ("kv_format", _I),
        ("epsilon", _F),
        ("attention_scale", _F),
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


class CKept(ctypes.Structure):
    """``Kept`` of native/forward.h."""

    _fields_ = (("keys", _P), ("values", _P), ("count", _L), ("key_stride", _L), ("value_stride", _L))


class CContext(ctypes.Structure):
    """``Context`` of native/forward.h."""

    _fields_ = (("stretch", _P), ("stretches", _L), ("kept", _P), ("parts", _L))


class CSpan(ctypes.Structure):
    """``Span`` of native/forward.h."""

    _fields_ = (("count", _L), ("position", _L), ("context", _P))


class CStack(ctypes.Structure):
    """``Stack`` of native/forward.h."""

    _fields_ = (
        ("layers", _L),
        ("layer", _P),
        ("cosines", _P),
        ("sines", _P),
        ("scalars", _P),
        ("encode_scalars", _P),
    )


class CExpression(ctypes.Structure):
    """``Expression`` of native/automaton.h."""

    _fields_ = (
        ("code", _P),
        ("start", _P),
        ("parts", _L),
        ("root", _L),
        ("max_nfa_states", _L),
        ("max_nfa_transitions", _L),
        ("max_states", _L),
        ("max_minimal_states", _L),
        ("max_steps", _L),
        ("max_members", _L),
        ("max_depth", _L),
        ("steps", _L),
        ("members", _L),
        ("outcome", _L),
        ("reached", _L),
        ("reached_transitions", _L),
        ("states", _L),
        ("automaton", _P),
    )


class CWalk(ctypes.Structure):
    """``Walk`` of native/monoid.h."""

    _fields_ = (
        ("transitions", _P),
        ("accepting", _P),
        ("states", _L),
        ("start", _L),
        ("parent", _P),
        ("byte", _P),
        ("level_start", _P),
        ("levels", _L),
        ("token_node", _P),
        ("silent", _P),
        ("tokens", _L),
        ("max_functions", _L),
        ("max_bytes", _L),
        ("max_steps", _L),
        ("bytes_a_move", _L),
        ("token_class", _P),
        ("distance", _P),
        ("reached", _P),
        ("outcome", _L),
        ("classes", _L),
        ("moves", _L),
        ("walked", _P),
    )


STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    CMatrix,
    CNorm,
    CHeads,
    CBranches,
    CStretch,
    CAttention,
    CClasses,
    CShaping,
    CReadout,
    CClassDraw,
    CChain,
    CLayer,
    CScaledRows,
    CKept,
    CContext,
    CSpan,
    CStack,
    CExpression,
    CWalk,
)
CONSTANTS = {"kBlock": 32, "kGroup": 32, "kTokens": 256, "kRegion": 2048}
"""The sizes in native/formats.h: columns of a block, inputs of a group in int4, tokens of a tile and a region."""

_MATRIX, _NORM = ctypes.POINTER(CMatrix), ctypes.POINTER(CNorm)
ENTRIES: dict[str, tuple[Any, ...]] = {
    "redraft_linear": (_MATRIX, _P, _L, _L, _NORM, _P, _L),
    "redraft_experts": (_MATRIX, _MATRIX, _L, _P, _L, _L, _NORM, _P, _P, _L, _P, _L),
    "redraft_attention": (ctypes.POINTER(CAttention), _L),
    "redraft_readout": (ctypes.POINTER(CReadout),),
    "redraft_draw_from_classes": (ctypes.POINTER(CClassDraw),),
    "redraft_split_heads": (ctypes.POINTER(CHeads), _P, _L, _L, _P),
    "redraft_project": (ctypes.POINTER(CLayer), _P, _L, _P, _P, _P, _P, _P, _P),
    "redraft_finish": (ctypes.POINTER(CLayer), _P, _L, _P, ctypes.POINTER(CScaledRows), _L),
    "redraft_forward": (ctypes.POINTER(CStack), _P, _L, _L, _L, _P),
    "redraft_infer": (ctypes.POINTER(CChain),),
    "redraft_infer_in_order": (ctypes.POINTER(CChain),),
    "redraft_automaton": (ctypes.POINTER(CExpression),),
    "redraft_take_automaton": (_P, _P, _P),
    "redraft_walk": (ctypes.POINTER(CWalk),),
    "redraft_take_moves": (_P, _P, _P, _P),
    "redraft_add_normed": (ctypes.POINTER(CBranches), _P, _L, _L),
}
"""The entries that return nothing, by their arguments."""


def layout() -> dict[str, int]:
    """Bytes of every structure, and every constant, by their names in C."""
    return {one.__name__[1:]: ctypes.sizeof(one) for one in STRUCTURES} | CONSTANTS
