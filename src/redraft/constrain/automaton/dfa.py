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
    if all(live):
        rows = [dict(sorted(row.items())) for row in automaton.rows]
    else:
        rows = [
            {read: row[read] for read in sorted(row) if live[row[read]]} if alive else {}
            for row, alive in zip(automaton.rows, live, strict=True)
        ]
        # No way leads into a dead end any longer, so that nothing waits for one.
        predecessors = [found if alive else [] for found, alive in zip(predecessors, live, strict=True)]
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
    most log2(states) times, and only the predecessors of those that changed are looked at again. States from which
    there is no way into a circle need none of this.
    """
    block, blocks = _uncircular(rows, accepting, predecessors)
    targets = [tuple(row.values()) for row in rows]
    suspects = {state for state, number in enumerate(block) if number < 0}
    first: dict[tuple[bool, tuple[int, ...], tuple[int, ...]], int] = {}
    members: list[set[int]] = [set() for _ in range(blocks)]
    begun = {
        # What is known of the targets already tells states apart; the numbers of others do not yet.
        state: first.setdefault(
            (accepting[state], tuple(rows[state]), tuple([block[target] for target in targets[state]])),
            blocks + len(first),
        )
        for state in suspects
    }
    members += [set() for _ in first]
    for state, number in begun.items():
        block[state] = number
        members[number].add(state)
    while suspects:
        groups: dict[int, dict[tuple[int, ...], list[int]]] = {}
        compared = 0
        # In this order, so that the steps are the same in every implementation.
        for state in sorted(suspects):
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


def _uncircular(
    rows: list[dict[int, int]], accepting: list[bool], predecessors: list[list[int]]
) -> tuple[list[int], int]:
    """A number for each state from which no way leads into a circle, as in ``_equivalence``, and -1 for the others.

    Also how many numbers there are. Such states are told apart from the ends of texts on, each by what it reads and the
    numbers of its targets.
    """
    found: dict[tuple[bool, tuple[int, ...], tuple[int, ...]], int] = {}
    block = [-1] * len(rows)
    left = [len(set(row.values())) for row in rows]
    waiting = [state for state, count in enumerate(left) if not count]
    while waiting:
        state = waiting.pop()
        row = rows[state]
        known = accepting[state], tuple(row), tuple([block[target] for target in row.values()])
        block[state] = found.setdefault(known, len(found))
        for before in predecessors[state]:
            left[before] -= 1
            if not left[before]:
                waiting.append(before)
    return block, len(found)


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
