"""Inference over a token automaton in compiled code, on any processor: `constrain.inference` says what it is."""

import ctypes

import numpy as np

from redraft.constrain.automaton.chain import Chain
from redraft.constrain.inference.chain import ClassSums, Floats, Inference, contradiction, prepare
from redraft.constrain.inference.chain import infer as infer_reference
from redraft.constrain.inference.chain import infer_in_order as in_order_reference
from redraft.constrain.inference.chain import log_valid as limited
from redraft.kernels import bindings, interface
from redraft.kernels.library import native


def infer(
    chain: Chain,
    start_state: int,
    end_potential: Floats,
    sums: ClassSums,
    uniforms: Floats,
) -> Inference:
    """See ``constrain.inference.chain.infer``, which is the reference; a sample may differ where rounding decides."""
    if native() is None:
        return infer_reference(chain, start_state, end_potential, sums, uniforms)
    return _compiled("redraft_infer", chain, start_state, end_potential, sums, uniforms, weighs_ends=True)


def infer_in_order(
    chain: Chain,
    start_state: int,
    end_potential: Floats,
    sums: ClassSums,
    uniforms: Floats,
) -> Inference:
    """See ``constrain.inference.chain.infer_in_order``, which is the reference, and ``infer``."""
    if native() is None:
        return in_order_reference(chain, start_state, end_potential, sums, uniforms)
    return _compiled("redraft_infer_in_order", chain, start_state, end_potential, sums, uniforms, weighs_ends=False)


def _compiled(
    entry: str,
    chain: Chain,
    start_state: int,
    end_potential: Floats,
    sums: ClassSums,
    uniforms: Floats,
    *,
    weighs_ends: bool,
) -> Inference:
    """``weighs_ends``: potentials of ends count, beside which of them are -inf."""
    weights = prepare(chain, start_state, end_potential, sums, uniforms)
    length, classes = weights.total.shape
    best_states, sampled_states = np.empty((2, length + 1), dtype=np.int64)
    best_classes, sampled_classes = np.empty((2, length), dtype=np.int64)
    log_multiplier = np.empty((length, classes))
    tail, entropy = np.empty((2, length))
    best_logprob, log_valid = ctypes.c_double(), ctypes.c_double()
    call = interface.CChain(
        length=length,
        states=chain.states,
        classes=classes,
        groups=len(chain.group_start) - 1,
        edge_start=chain.edge_start.ctypes.data,
        edge_target=chain.edge_target.ctypes.data,
        edge_group=chain.edge_group.ctypes.data,
        group_start=chain.group_start.ctypes.data,
        group_class=chain.group_class.ctypes.data,
        start=start_state,
        end=weights.end.ctypes.data,
        total=weights.total.ctypes.data,
        spread=weights.spread.ctypes.data,
        peak=weights.peak.ctypes.data,
        best_tail=weights.best_tail.ctypes.data,
        uniforms=weights.uniforms.ctypes.data,
        best_states=best_states.ctypes.data,
        sampled_states=sampled_states.ctypes.data,
        best_classes=best_classes.ctypes.data,
        sampled_classes=sampled_classes.ctypes.data,
        log_multiplier=log_multiplier.ctypes.data,
        tail=tail.ctypes.data,
        entropy=entropy.ctypes.data,
        best_logprob=ctypes.addressof(best_logprob),
        log_valid=ctypes.addressof(log_valid),
    )
    bindings.entry(entry)(ctypes.byref(call))
    if best_logprob.value == -np.inf:
        raise contradiction(chain, start_state, weights)
    return Inference(
        best_states,
        best_classes,
        best_logprob.value,
        sampled_states,
        sampled_classes,
        limited(log_valid.value, weights) if weighs_ends else log_valid.value,
        log_multiplier,
        tail,
        entropy,
    )
