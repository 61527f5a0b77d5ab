"""Room for a thought before a constrained text: the constraint begins where the answer does."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.tokens import TokenAutomaton, tokens_by_class


def after_thought(
    automaton: TokenAutomaton, opening: int, closing: int, with_text: NDArray[np.bool_]
) -> TokenAutomaton:
    """The texts of ``automaton``, each alone or after ``opening``, any tokens ``with_text`` [V] and ``closing``.

    ``opening`` and ``closing`` are token ids that mark a thought. Two states come on top: the new start does what the
    old one did or begins a thought, and the thought lasts until ``closing``.
    """
    states, old_classes = automaton.states, automaton.classes
    thought, start, end = states, states + 1, states + 2
    # Tokens that the constraint itself never allows may stand in a thought; the end tokens stay the last class.
    unused, opens, closes, ends = range(old_classes - 1, old_classes + 3)
    token_class = automaton.token_class.copy()
    token_class[automaton.token_class == old_classes - 1] = ends
    token_class[(automaton.token_class == 0) & with_text] = unused
    token_class[opening], token_class[closing] = opens, closes
    # A marker that was text for the constraint has left its class, which may be empty now and is harmless then.
    free = np.arange(1, unused + 1)

    groups = len(automaton.group_start) - 1
    any_text, closing_group, opening_group = range(groups, groups + 3)
    group_class = np.where(automaton.group_class == old_classes - 1, ends, automaton.group_class)
    sizes = [*np.diff(automaton.group_start), len(free), 1, 1]

    own = slice(*automaton.edge_start[automaton.start : automaton.start + 2])
    old_target = np.where(automaton.edge_target == states, end, automaton.edge_target)
    from_start = np.append(old_target[own], thought)
    # A source's edges ascend by target; that of the thought back to the old start comes before the one that stays.
    order = np.argsort(from_start, kind="stable")
    edge_target = np.concatenate([old_target, [automaton.start, thought], from_start[order]])
    group_from_start = np.append(automaton.edge_group[own], opening_group)[order]
    edge_group = np.concatenate([automaton.edge_group, [closing_group, any_text], group_from_start])
    count = len(automaton.edge_target)
    edge_start = np.append(automaton.edge_start, [count + 2, count + 2 + len(order)])
    distance = automaton.distance[automaton.start]
    class_start = np.concatenate([[0], np.cumsum(np.bincount(token_class, minlength=ends + 1))])
    return replace(
        automaton,
        edge_start=edge_start.astype(np.int64),
        edge_target=edge_target.astype(np.int32),
        edge_group=edge_group.astype(np.int32),
        group_start=np.cumsum([0, *sizes], dtype=np.int64),
        group_class=np.concatenate([group_class, free, [closes], [opens]]).astype(np.int32),
        start=start,
        accepting=np.append(automaton.accepting, [False, automaton.accepting[automaton.start]]),
        distance=np.append(automaton.distance, [distance + 1, distance]).astype(np.int32),
        token_class=token_class,
        class_start=class_start.astype(np.int64),
        class_tokens=tokens_by_class(token_class, ends + 1),
    )
