"""Deterministic automata over classes of bytes: their intersection, their difference and their smallest form."""

from dataclasses import dataclass

from redraft.constrain.automaton.limits import Budget


@dataclass(frozen=True)
class Dfa:
    """A deterministic automaton without a dead state; state 0 is the start."""

    classes: list[int]
    """Bytes that no state tells apart, as bit masks."""
    rows: list[dict[int, int]]
    """[states]: each state's following state, by the class of the byte."""
    accepting: list[bool]


def product(left: Dfa, right: Dfa, budget: Budget) -> Dfa:
    """The automaton of what both accept, from the pairs of states that a text can lead to."""
    shared = [(a & b, i, j) for i, a in enumerate(left.classes) for j, b in enumerate(right.classes) if a & b]
    pairs = [(0, 0)]
    numbers = {(0, 0): 0}
    rows: list[dict[int, int]] = []
    for a, b in pairs:
        budget.spend(len(shared))
        from_left, from_right, row = left.rows[a], right.rows[b], dict[int, int]()
        for read, (_, i, j) in enumerate(shared):
            if i in from_left and j in from_right:
                pair = from_left[i], from_right[j]
                row[read] = numbers.setdefault(pair, len(numbers))
                if len(numbers) > len(pairs):
                    pairs.append(pair)
        budget.check_states(len(pairs))
        rows.append(row)
    accepting = [left.accepting[a] and right.accepting[b] for a, b in pairs]
    return Dfa([mask for mask, _, _ in shared], rows, accepting)


def difference(left: Dfa, right: Dfa, budget: Budget) -> Dfa:
    """The automaton of what ``left`` accepts and ``right`` does not, from pairs of states; in -1, right is dead."""
    classes: list[int] = []
    read: list[tuple[int, int]] = []
    for i, mask in enumerate(left.classes):
        rest = mask
        for j, other in enumerate(right.classes):
            if mask & other:
                classes.append(mask & other)
                read.append((i, j))
                rest &= ~other
        if rest:
            classes.append(rest)
            read.append((i, -1))
    pairs = [(0, 0)]
    numbers = {(0, 0): 0}
    rows: list[dict[int, int]] = []
    for a, b in pairs:
        budget.spend(len(read))
        from_left, row = left.rows[a], dict[int, int]()
        from_right = right.rows[b] if b >= 0 else {}
        for number, (i, j) in enumerate(read):
            if i in from_left:
                pair = from_left[i], from_right.get(j, -1)
                row[number] = numbers.setdefault(pair, len(numbers))
                if len(numbers) > len(pairs):
                    pairs.append(pair)
        budget.check_states(len(pairs))
        rows.append(row)
    accepting = [left.accepting[a] and not (b >= 0 and right.accepting[b]) for a, b in pairs]
    return Dfa(classes, rows, accepting)


def minimise(automaton: Dfa, budget: Budget) -> Dfa | None:
    """The equivalent automaton without dead ends and with the fewest states, numbered breadth first, class by class."""
    budget.spend(len(automaton.rows) + sum(map(len, automaton.rows)))
    predecessors: list[list[int]] = [[] for _ in automaton.rows]
    for state, row in enumerate(automaton.rows):
        for target in set(row.values()):
            predecessors[target].append(state)
    live = _leading_to(automaton.accepting, predecessors)
    if not live[0]:
        return None
    rows = [
        {read: row[read] for read in sorted(row) if live[row[read]]} if alive else {}
        for row, alive in zip(automaton.rows, live, strict=True)
    ]
    block = _equivalence(rows, automaton.accepting, predecessors, budget)
    number = {block[0]: 0}
    representatives = [0]
    for state in representatives:
        for target in rows[state].values():
            if block[target] not in number:
                number[block[target]] = len(number)
                representatives.append(target)
    budget.check_minimal_states(len(representatives))
    return Dfa(
        automaton.classes,
        [{read: number[block[target]] for read, target in rows[state].items()} for state in representatives],
        [automaton.accepting[state] for state in representatives],
    )


def _leading_to(accepting: list[bool], predecessors: list[list[int]]) -> list[bool]:
    """The states from which an accepting one is reached."""
    live = list(accepting)
    waiting = [state for state, accepts in enumerate(accepting) if accepts]
    while waiting:
        for state in predecessors[waiting.pop()]:
            if not live[state]:
                live[state] = True
                waiting.append(state)
    return live


def _equivalence(
    rows: list[dict[int, int]], accepting: list[bool], predecessors: list[list[int]], budget: Budget
) -> list[int]:
    """A number for each state, the same for two that accept the same texts. Dead ends must be gone from ``rows``.

    Partition refinement. When a block is split, its largest part keeps the number: a state then changes its own at
    most log2(states) times, and only the predecessors of those that changed are looked at again.
    """
    first: dict[tuple[bool, tuple[int, ...]], int] = {}
    block = [first.setdefault((accepts, tuple(row)), len(first)) for row, accepts in zip(rows, accepting, strict=True)]
    members: list[set[int]] = [set() for _ in first]
    for state, number in enumerate(block):
        members[number].add(state)
    targets = [tuple(row.values()) for row in rows]
    suspects: set[int] = set(range(len(rows)))
    while suspects:
        groups: dict[int, dict[tuple[int, ...], list[int]]] = {}
        compared = 0
        for state in suspects:
            after = tuple([block[target] for target in targets[state]])
            groups.setdefault(block[state], {}).setdefault(after, []).append(state)
            compared += 1 + len(after)
        budget.spend(compared)
        suspects = set()
        for number, by_target in groups.items():
            for part in _leaving(members[number], list(by_target.values())):
                members[number].difference_update(part)
                for state in part:
                    block[state] = len(members)
                    suspects.update(predecessors[state])
                members.append(set(part))
    return block


def _leaving(block: set[int], parts: list[list[int]]) -> list[list[int]]:
    """All parts of a block but the largest; what is in none of ``parts`` is a part as well.

    That rest leads to no state that changed, and each of the parts does, so they differ.
    """
    rest = len(block) - sum(map(len, parts))
    largest = max(parts, key=len)
    if rest >= len(largest):
        return parts
    others = [part for part in parts if part is not largest]
    return [*others, list(block.difference(*parts))] if rest else others
