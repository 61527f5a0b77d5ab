"""Automata of constraints come from compiled code, as in an engine; tests/kernels holds it against its reference."""

from collections.abc import Iterator

import pytest

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import monoid
from redraft.kernels import automata


@pytest.fixture(autouse=True, scope="module")
def compiled_code() -> Iterator[None]:
    automata.use()
    yield
    byte_automaton.use(byte_automaton.build_reference)
    monoid.use(monoid.walk_reference)
