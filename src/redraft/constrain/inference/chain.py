"""Exact inference over positions x states of a token automaton: the canvas, given that its text is valid.

Viterbi, backward sums, marginals and a joint sample. DINGO (Suresh et al. 2025, arXiv 2505.23061) finds the best
sequence in this way; here it is over classes of tokens. This is the reference; ``kernels.inference`` is compiled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.chain import Chain
from redraft.errors import ConstraintError, GenerationError

Floats = NDArray[np.float64]
# A canvas of log probabilities this low can still be added up, and nobody tells a token that is less likely from one.
LOWEST_LOGPROB = -1e9


@dataclass(frozen=True, eq=False)
class ClassSums:
    """The token distributions of L positions, each summed up by token class: all that inference needs of them."""

    mass: NDArray[np.floating]
    """[L, n]: the probability of each class."""
    plogp: NDArray[np.floating]
    """[L, n]: the sum of p log p over its tokens."""
    peak: NDArray[np.floating]
    """[L, n]: the natural log probability of its likeliest token; -inf for a class without tokens."""

    def __post_init__(self) -> None:
        if self.mass.ndim != 2:
            raise ValueError(f"mass {[*self.mass.shape]} must be [positions, classes]")
        _check_shape("plogp", self.plogp, self.mass.shape)
        _check_shape("peak", self.peak, self.mass.shape)

    @property
    def positions(self) -> int:
        """L."""
        return len(self.mass)

    def rows(self, positions: slice) -> "ClassSums":
        """The sums of some of the positions, as views."""
        return ClassSums(self.mass[positions], self.plogp[positions], self.peak[positions])

    def pinned(self, positions: NDArray[np.integer], classes: NDArray[np.integer]) -> "ClassSums":
        """Sums in which each of ``positions`` holds one token, of the class given for it.

        Only the caller knows which token of the class it is, and has to put it there whatever inference returns.
        Nothing keeps the text from ending earlier, where a pinned token is thrown away like every other. Raises
        ConstraintError for a position that is not there or pinned twice.
        """
        length, count = self.mass.shape
        for position, number in zip(positions.tolist(), classes.tolist(), strict=True):
            if not 0 <= position < length:
                raise ConstraintError(f"position {position} cannot be pinned: the canvas has {length}, numbered from 0")
            if not 0 <= number < count:
                raise ValueError(f"class {number} of the token pinned at {position} is not one of {count}")
        if len(np.unique(positions)) < len(positions):
            raise ConstraintError(f"a position is pinned twice: {sorted(positions.tolist())}")
        mass, plogp, peak = self.mass.copy(), self.plogp.copy(), self.peak.copy()
        mass[positions], plogp[positions], peak[positions] = 0.0, 0.0, -np.inf
        mass[positions, classes], peak[positions, classes] = 1.0, 0.0
        return ClassSums(mass, plogp, peak)

    def without(self, positions: NDArray[np.integer], number: int) -> "ClassSums":
        """Sums in which no token of a class stands at any of ``positions``."""
        mass, plogp, peak = self.mass.copy(), self.plogp.copy(), self.peak.copy()
        mass[positions, number], plogp[positions, number], peak[positions, number] = 0.0, 0.0, -np.inf
        return ClassSums(mass, plogp, peak)


@dataclass(frozen=True, eq=False)
class Inference:
    """The result of inference: a step's distribution over canvases of L positions whose text is valid."""

    best_states: NDArray[np.int64]
    """[L + 1]: the state before each position, and after the last, of the most probable token sequence."""
    best_classes: NDArray[np.int64]
    """[L]: the class whose likeliest token stands there; -1 after END, where the likeliest token of all does."""
    best_logprob: float
    """Its log probability, without the condition that the text is valid."""
    sampled_states: NDArray[np.int64]
    """[L + 1]: the same for a sequence drawn from the distribution given that the text is valid."""
    sampled_classes: NDArray[np.int64]
    """[L]: the class from which to draw the token; -1 after END, where any token may be drawn."""
    log_valid: float
    """The log probability that tokens drawn independently at each position make valid text."""
    log_multiplier: Floats
    """[L, n]: log of ``multiplier``, which a forced but very unlikely token can make too large for a number."""
    tail: Floats
    """[L]: the probability that the text has ended before a position."""
    entropy: Floats
    """[L]: the entropy of the marginals given that the text is valid, in nats."""

    @property
    def multiplier(self) -> Floats:
        """[L, n]: token t of class c has at i the marginal ``p_i(t) * (multiplier[i, c] + tail[i])``.

        It stays within float64, so that its product with a probability of zero is zero.
        """
        return np.exp(np.minimum(self.log_multiplier, np.log(np.finfo(np.float64).max)))

    @property
    def log_ratio(self) -> Floats:
        """[L, n]: the difference, by class, from a token's log probability to that of its marginal."""
        return _log_ratio(self.log_multiplier, self.tail)


@dataclass(frozen=True, eq=False)
class EdgePosteriors:
    """The expected use of each edge by a canvas whose text is valid."""

    log_expected: Floats
    """[E]: log of the expected number of times; -inf for an edge on no way to an end."""
    log_valid: float
    """The log probability that tokens drawn independently at each position make valid text."""

    @property
    def expected(self) -> Floats:
        """[E]: the expected number of times, which for an edge taken once at most is the probability that it is."""
        return np.exp(self.log_expected)


@dataclass(frozen=True, eq=False)
class Weights:
    """A canvas's distributions brought into the form that both implementations start from, float64 and contiguous."""

    total: Floats
    """[L, n]: log probability of a class; -inf only where it has no token."""
    spread: Floats
    """[L, n]: entropy within a class, nats."""
    peak: Floats
    """[L, n]: log probability of a class's likeliest token."""
    best_tail: Floats
    """[L]: log probability of the likeliest token of all."""
    end: Floats
    """[S + 1]: log potential of standing in a state after the last position."""
    uniforms: Floats
    """[L, 2]."""


def infer(
    chain: Chain,
    start_state: int,
    end_potential: Floats,
    sums: ClassSums,
    uniforms: Floats,
) -> Inference:
    """Infer what stands on the canvas whose text takes ``chain`` from ``start_state`` to where it may end.

    ``sums`` are those of each position's token distribution. ``end_potential`` [S + 1] is the log potential of each
    state, END included, after the last position. ``uniforms`` [L, 2] in [0, 1) pick the sample: its edge at a position
    and the class among those of the edge. A class whose mass underflowed weighs as much as its likeliest token, so that
    valid text exists whatever the model says. Raises ConstraintError where there is none all the same: pins or the end
    potential contradict the automaton.
    """
    weights = prepare(chain, start_state, end_potential, sums, uniforms)
    best_states, best_classes, best_logprob = _best(chain, start_state, weights)
    if best_logprob == -np.inf:
        raise contradiction(chain, start_state, weights)
    groups = _Stretches(chain.group_start).log_sum(weights.total[:, chain.group_class])
    messages = _backward(chain, weights, groups)
    log_multiplier, tail = _marginals(chain, start_state, groups, messages, weights.total.shape[1])
    return Inference(
        best_states,
        best_classes,
        best_logprob,
        *_sample(chain, start_state, weights, groups, messages),
        log_valid(float(messages[0, start_state]), weights),
        log_multiplier,
        tail,
        _entropy(weights, log_multiplier, tail),
    )


def infer_in_order(
    chain: Chain,
    start_state: int,
    end_potential: Floats,
    sums: ClassSums,
    uniforms: Floats,
) -> Inference:
    """Infer what stands on a canvas whose gaps are revealed from their beginning on, token after token.

    Every position has the model's own distribution over the tokens that may follow those before it; what comes later
    weighs nothing, as long as there is a way to an end. In the order of such a canvas later masks are read before there
    is what they depend on: counted, they would let a text that ends win over one that goes on. The best sequence is the
    greedy one, multipliers and entropies are given what it has before them, and ``log_valid`` is the log probability
    that a token which may follow is drawn at each of its positions. Of ``end_potential`` it counts only where it is
    -inf, of ``uniforms`` the first column, which picks the class. Raises as ``infer``.
    """
    weights = prepare(chain, start_state, end_potential, sums, uniforms)
    possible = _possible(chain, weights)
    if not possible[0, start_state]:
        raise contradiction(chain, start_state, weights)
    length, classes = weights.total.shape
    log_multiplier, tail, log_valid = np.full((length, classes), -np.inf), np.zeros(length), 0.0

    def likeliest(position: int, allowed: NDArray[np.int64]) -> int:
        nonlocal log_valid
        log_sum = float(np.logaddexp.reduce(weights.total[position, allowed]))
        log_multiplier[position, allowed] = -log_sum
        log_valid += min(log_sum, 0.0)
        return int(allowed[weights.peak[position, allowed].argmax()])

    def drawn(position: int, allowed: NDArray[np.int64]) -> int:
        logs = weights.total[position, allowed]
        return int(allowed[_at(np.exp(logs - logs.max()), weights.uniforms[position, 0])])

    best_states, best_classes = _in_order(chain, start_state, weights, possible, likeliest)
    tail[best_classes < 0] = 1.0
    own = np.where(best_classes < 0, weights.best_tail, weights.peak[np.arange(length), best_classes])
    return Inference(
        best_states,
        best_classes,
        float(own.sum()),
        *_in_order(chain, start_state, weights, possible, drawn),
        log_valid,
        log_multiplier,
        tail,
        _entropy(weights, log_multiplier, tail),
    )


def edge_posteriors(
    chain: Chain,
    start_state: int,
    end_potential: Floats,
    sums: ClassSums,
) -> EdgePosteriors:
    """The expected number of times that a canvas takes each edge, given that its text is valid: forward-backward.

    The arguments and the errors are those of ``infer``.
    """
    weights = prepare(chain, start_state, end_potential, sums, np.zeros((sums.positions, 2)))
    groups = _Stretches(chain.group_start).log_sum(weights.total[:, chain.group_class])
    messages = _backward(chain, weights, groups)
    if messages[0, start_state] == -np.inf:
        raise contradiction(chain, start_state, weights)
    return EdgePosteriors(
        _log_taken(chain, start_state, groups, messages), log_valid(float(messages[0, start_state]), weights)
    )


def state_messages(chain: Chain, start_state: int, end_potential: Floats, sums: ClassSums) -> tuple[Floats, Floats]:
    """Logs of what all ways weigh that lead to a state before a position, and of what all weigh that lead on from it.

    Both are [L + 1, S + 1]; their sum at a position and state is what all valid ways through that state weigh. The
    arguments and the errors are those of ``infer``.
    """
    weights = prepare(chain, start_state, end_potential, sums, np.zeros((sums.positions, 2)))
    groups = _Stretches(chain.group_start).log_sum(weights.total[:, chain.group_class])
    after = _backward(chain, weights, groups)
    if after[0, start_state] == -np.inf:
        raise contradiction(chain, start_state, weights)
    return _forward(chain, start_state, groups), after


def end_potential(distance: NDArray[np.integer], tokens_left_after: int, needs_end: bool) -> Floats:
    """[S + 1]: 0 where a canvas may end when so many more tokens may follow it, -inf elsewhere.

    ``distance`` [S] counts the tokens that a state is away from acceptance, 0 where it accepts; with ``needs_end`` an
    end token comes on top. With no tokens left that leaves accepting states, or END alone; END is always allowed.
    """
    if tokens_left_after < 0:
        raise ValueError(f"{tokens_left_after} tokens are left after the canvas; 0 if it is the last one")
    can_finish = distance + int(needs_end) <= tokens_left_after
    return np.where(np.append(can_finish, True), 0.0, -np.inf)


def prepare(
    chain: Chain,
    start_state: int,
    end_potential: Floats,
    sums: ClassSums,
    uniforms: Floats,
) -> Weights:
    """Check the arguments of ``infer``, and bring them into the form that both implementations start from."""
    mass, plogp, peak = sums.mass, sums.plogp, sums.peak
    if mass.shape[1] < chain.min_classes:
        raise ValueError(f"mass {[*mass.shape]} must be [positions, {chain.min_classes} classes or more]")
    if not 0 <= start_state <= chain.states:
        raise ValueError(f"start state {start_state} is not one of {chain.states} states and END, {chain.states}")
    _check_shape("uniforms", uniforms, (len(mass), 2))
    _check_shape("end_potential", end_potential, (chain.states + 1,))
    if not (end_potential < np.inf).all():
        raise ValueError("end_potential has NaN or infinity; it may be any number, or -inf")
    broken = ~(np.isfinite(mass).all(1) & np.isfinite(plogp).all(1) & (peak < np.inf).all(1))
    if broken.any():
        raise GenerationError(f"the distribution of position {int(broken.argmax())} is not one: it has NaN or infinity")
    # Below the smallest normal number a sum has lost its accuracy, and most of its terms.
    accurate = mass >= np.finfo(mass.dtype).tiny
    log_mass = np.log(mass, where=accurate, out=np.full(mass.shape, -np.inf), dtype=np.float64)
    mean_logp = np.divide(plogp, mass, where=accurate, out=np.zeros(mass.shape), dtype=np.float64)
    spread = np.subtract(log_mass, mean_logp, where=accurate, out=np.zeros(mass.shape))
    floored = _floored(peak)
    return Weights(
        total=np.where(floored > -np.inf, np.maximum(log_mass, floored), -np.inf),
        spread=np.maximum(spread, 0.0),
        peak=floored,
        best_tail=floored.max(1, initial=-np.inf),
        end=_floored(end_potential),
        uniforms=np.ascontiguousarray(uniforms, dtype=np.float64),
    )


def contradiction(chain: Chain, start_state: int, weights: Weights) -> ConstraintError:
    """The error that says why no sequence of tokens leads from the start to an end."""
    possible = _Stretches(chain.group_start).largest(weights.peak[:, chain.group_class]) > -np.inf
    reached = np.arange(chain.states + 1) == start_state
    for position, groups in enumerate(possible):
        taken = reached[chain.edge_source] & groups[chain.edge_group]
        reached = (np.bincount(chain.edge_target[taken], minlength=chain.states + 1) > 0) | (
            reached & (np.arange(chain.states + 1) == chain.states)
        )
        if not reached.any():
            return ConstraintError(
                f"the token pinned at position {position} cannot stand there: the constraint, with the tokens pinned "
                "before it, allows others only"
            )
    return ConstraintError(
        f"no text that the constraint allows ends within the {len(possible)} positions of the canvas and the tokens "
        "left after it; allow more tokens, or pin fewer"
    )


def log_valid(log_sum: float, weights: Weights) -> float:
    """The log of the sum over all valid sequences, without what rounding adds above the possible."""
    return min(log_sum, float(weights.end.max()))


class _Stretches:
    """Reductions over stretches of the last axis, each from one start to the next; one may be empty."""

    def __init__(self, start: NDArray[np.int64]) -> None:
        self._lengths = np.diff(start)
        self._filled = self._lengths > 0
        self._first = start[:-1][self._filled]

    def largest(self, values: Floats) -> Floats:
        """[..., number of stretches]; -inf for an empty one."""
        return self._reduced(np.maximum, values, -np.inf)

    def log_sum(self, values: Floats) -> Floats:
        """[..., number of stretches]: log of the sum of exp(values), which may be -inf."""
        top = _finite(self.largest(values))
        shifted = np.exp(values - np.repeat(top, self._lengths, axis=-1))
        return top + _log(self._reduced(np.add, shifted, 0.0))

    def _reduced(self, operation: np.ufunc, values: Floats, empty: float) -> Floats:
        out = np.full((*values.shape[:-1], len(self._lengths)), empty)
        out[..., self._filled] = operation.reduceat(values, self._first, axis=-1)
        return out


def _best(chain: Chain, start: int, weights: Weights) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Viterbi: the states, classes and log probability of the best sequence; of equals the first edge, then class."""
    edges = _Stretches(chain.edge_start)
    groups = _Stretches(chain.group_start).largest(weights.peak[:, chain.group_class])
    scores = np.empty((len(groups) + 1, chain.states + 1))
    scores[-1] = weights.end
    for position in reversed(range(len(groups))):
        following = scores[position + 1]
        scores[position, :-1] = edges.largest(groups[position, chain.edge_group] + following[chain.edge_target])
        scores[position, -1] = following[-1] + weights.best_tail[position]
    logprob = float(scores[0, start])
    if logprob == -np.inf:
        return np.empty(0, np.int64), np.empty(0, np.int64), logprob
    return *_walk(chain, start, groups, scores, weights.peak, lambda values, *_: int(values.argmax())), logprob


def _possible(chain: Chain, weights: Weights) -> NDArray[np.bool_]:
    """[L + 1, S + 1]: whether an end can be reached from a state before a position."""
    groups = _Stretches(chain.group_start).largest(weights.peak[:, chain.group_class]) > -np.inf
    found = np.empty((len(groups) + 1, chain.states + 1), dtype=np.bool_)
    found[-1] = weights.end > -np.inf
    for position in reversed(range(len(groups))):
        onward = groups[position, chain.edge_group] & found[position + 1, chain.edge_target]
        found[position] = np.bincount(chain.edge_source[onward], minlength=chain.states + 1) > 0
        found[position, -1] = found[position + 1, -1]
    return found


def _in_order(
    chain: Chain,
    start: int,
    weights: Weights,
    possible: NDArray[np.bool_],
    choose: Callable[[int, NDArray[np.int64]], int],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose a class at every position among those that may follow, by ``choose(position, classes)``.

    A class may lead from a state to several, of which a later one decides: all are kept. What has ended stays ended.
    """
    length = len(weights.total)
    states, classes = np.full(length + 1, chain.states), np.full(length, -1)
    reached: list[NDArray[np.int64]] = [np.array([start])]
    for position in range(length):
        if chain.states in reached[-1]:
            reached += [np.array([chain.states])] * (length - position)
            break
        edges = np.flatnonzero(np.isin(chain.edge_source, reached[-1]) & possible[position + 1, chain.edge_target])
        allowed = np.unique(np.concatenate([_classes(chain, int(edge)) for edge in edges]))
        allowed = allowed[weights.peak[position, allowed] > -np.inf]
        classes[position] = choose(position, allowed)
        taken = [edge for edge in edges if classes[position] in _classes(chain, int(edge))]
        reached.append(np.unique(chain.edge_target[taken]))
    states[-1] = reached[-1][0]
    for position in reversed(range(length)):
        if classes[position] < 0:
            # From END on there is no other state; what led there is found at the position before.
            states[position] = chain.states
            continue
        states[position] = next(
            source
            for source in reached[position]
            for edge in range(*chain.edge_start[source : source + 2])
            if chain.edge_target[edge] == states[position + 1] and classes[position] in _classes(chain, edge)
        )
    return states, classes


def _classes(chain: Chain, edge: int) -> NDArray[np.int64]:
    group = chain.edge_group[edge]
    return chain.group_class[slice(*chain.group_start[group : group + 2])].astype(np.int64)


def _backward(chain: Chain, weights: Weights, groups: Floats) -> Floats:
    """[L + 1, S + 1]: log of the sum, over all valid ways to go on from a state before a position, of their weights.

    It stays in log space throughout: a forced path can lie e^-4000 below the best state of its position.
    """
    edges = _Stretches(chain.edge_start)
    messages = np.empty((len(groups) + 1, chain.states + 1))
    messages[-1] = weights.end
    for position in reversed(range(len(groups))):
        following = messages[position + 1]
        messages[position, :-1] = edges.log_sum(groups[position, chain.edge_group] + following[chain.edge_target])
        messages[position, -1] = following[-1]
    return messages


def _forward(chain: Chain, start: int, groups: Floats) -> Floats:
    """[L + 1, S + 1]: log of the sum, over all ways from the start to a state before a position, of their weights."""
    by_target = np.argsort(chain.edge_target, kind="stable")
    into = _Stretches(np.searchsorted(chain.edge_target[by_target], np.arange(chain.states + 2)))
    messages = np.empty((len(groups) + 1, chain.states + 1))
    messages[0] = np.where(np.arange(chain.states + 1) == start, 0.0, -np.inf)
    for position, group in enumerate(groups):
        before = messages[position]
        messages[position + 1] = into.log_sum((before[chain.edge_source] + group[chain.edge_group])[by_target])
        messages[position + 1, -1] = np.logaddexp(messages[position + 1, -1], before[-1])
    return messages


def _marginals(chain: Chain, start: int, groups: Floats, messages: Floats, classes: int) -> tuple[Floats, Floats]:
    """Log multipliers [L, n] and the probability of END before each position [L], from the start on.

    A transition divided by the messages is a probability, so that here nothing that counts underflows.
    """
    entry_group = np.repeat(np.arange(len(chain.group_start) - 1), np.diff(chain.group_start))
    by_class = np.argsort(chain.group_class, kind="stable")
    class_group = entry_group[by_class]
    class_start = np.searchsorted(chain.group_class[by_class], np.arange(classes + 1))
    of_class = _Stretches(class_start)
    log_multiplier, tail = np.empty((len(groups), classes)), np.empty(len(groups))
    state = (np.arange(chain.states + 1) == start).astype(np.float64)
    for position, group in enumerate(groups):
        tail[position] = state[-1]
        onward = group[chain.edge_group] + messages[position + 1, chain.edge_target]
        moved = state[chain.edge_source] * np.exp(onward - _finite(messages[position, chain.edge_source]))
        state = np.bincount(chain.edge_target, moved, chain.states + 1)
        state[-1] += tail[position]
        taken = np.bincount(chain.edge_group, moved, len(group)).astype(np.float64)
        log_multiplier[position] = of_class.log_sum((_log(taken) - _finite(group))[class_group])
    return log_multiplier, tail


def _log_taken(chain: Chain, start: int, groups: Floats, messages: Floats) -> Floats:
    """[E]: log of the expected number of times that each edge is taken, from the start on.

    It is in logs, so that what is very unlikely still tells from what cannot be, and from what is unlikelier.
    """
    by_target = np.argsort(chain.edge_target, kind="stable")
    into = _Stretches(np.searchsorted(chain.edge_target[by_target], np.arange(chain.states + 2)))
    taken = np.full(len(chain.edge_target), -np.inf)
    state = np.where(np.arange(chain.states + 1) == start, 0.0, -np.inf)
    for position, group in enumerate(groups):
        onward = group[chain.edge_group] + messages[position + 1, chain.edge_target]
        moved = state[chain.edge_source] + onward - _finite(messages[position, chain.edge_source])
        taken = np.logaddexp(taken, moved)
        ended = state[-1]
        state = into.log_sum(moved[by_target])
        state[-1] = np.logaddexp(state[-1], ended)
    return taken


def _entropy(weights: Weights, log_multiplier: Floats, tail: Floats) -> Floats:
    """[L]: the entropy of the classes, plus that within each, where the tokens keep their proportions."""
    log_share = _log_ratio(log_multiplier, tail) + weights.total
    share = np.exp(log_share)
    return np.maximum((share * (weights.spread - _finite(log_share))).sum(1), 0.0)


def _sample(
    chain: Chain, start: int, weights: Weights, groups: Floats, messages: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw states and classes, one position after the other, each given that the text can still be valid."""

    def draw(values: Floats, position: int, choice: int) -> int:
        return _at(np.exp(values - values.max()), weights.uniforms[position, choice])

    return _walk(chain, start, groups, messages, weights.total, draw)


def _walk(
    chain: Chain,
    state: int,
    groups: Floats,
    messages: Floats,
    classes: Floats,
    choose: Callable[[Floats, int, int], int],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose an edge and one of its classes at every position, from a state on, by their log weights.

    ``choose(log weights, position, 0 for the edge or 1 for the class)`` returns an index.
    """
    states, chosen = np.full(len(groups) + 1, chain.states), np.full(len(groups), -1)
    states[0] = state
    for position in range(len(groups)):
        if state == chain.states:
            break
        edges = slice(*chain.edge_start[state : state + 2])
        onward = groups[position, chain.edge_group[edges]] + messages[position + 1, chain.edge_target[edges]]
        edge = int(edges.start) + choose(onward, position, 0)
        group = chain.edge_group[edge]
        possible = chain.group_class[slice(*chain.group_start[group : group + 2])]
        chosen[position] = possible[choose(classes[position, possible], position, 1)]
        state = states[position + 1] = int(chain.edge_target[edge])
    return states, chosen


def _at(weights: Floats, uniform: float) -> int:
    """The index at ``uniform`` of the sum of ``weights``, never one that weighs nothing."""
    cumulative = weights.cumsum()
    found = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    # What rounding put at the very end belongs to the last that weighs something.
    return int(min(found, np.searchsorted(cumulative, cumulative[-1])))


def _log_ratio(log_multiplier: Floats, tail: Floats) -> Floats:
    return np.logaddexp(log_multiplier, _log(tail)[:, None])


def _floored(logs: NDArray[np.floating]) -> Floats:
    """The logs as contiguous float64, finite ones raised to LOWEST_LOGPROB at least."""
    return np.where(logs > -np.inf, np.maximum(logs, LOWEST_LOGPROB), -np.inf).astype(np.float64)


def _finite(logs: Floats) -> Floats:
    """The logs with 0 for -inf, for use where the other operand is -inf or 0 itself."""
    return np.where(logs > -np.inf, logs, 0.0)


def _log(values: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(values)


def _check_shape(name: str, array: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} {[*array.shape]} must be {[*shape]}")
