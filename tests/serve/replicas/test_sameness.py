"""Replicas with other weights than the first are named, with where they are; those that compute otherwise are noted."""

from dataclasses import replace

from redraft.api import Engine
from redraft.loading import load
from redraft.serve.replicas.sameness import Roll, identity_of
from tests.conftest import WriteCheckpoint
from tests.random_checkpoint import LETTERS_SIZE


def test_a_replica_with_other_files_is_named(checkpoint_of: WriteCheckpoint, engine: Engine) -> None:
    changed = load(checkpoint_of(letters=True, vocab_size=LETTERS_SIZE, seed=9))
    roll = Roll()
    first = identity_of("a1", "one.local", {"m": engine})
    assert roll.fault(first) is None
    assert roll.fault(identity_of("b2", "two.local", {"m": engine})) is None
    fault = roll.fault(identity_of("c3", "three.local", {"m": changed}))
    assert fault is not None
    for told in ("'m'", "three.local", "c3", "one.local", "a1", changed.origin.digest[:12], engine.origin.digest[:12]):
        assert told in fault
    assert "the weights differ" in fault
    assert roll.fault(identity_of("d4", "one.local", {"m": engine})) is None, "the first still decides"


def test_another_tokenizer_and_other_kernels_are_told_apart(engine: Engine) -> None:
    roll = Roll()
    first = identity_of("a1", "one.local", {"m": engine})
    assert (roll.fault(first), roll.differences(first)) == (None, [])
    other = replace(first, weights={"m": f"{engine.origin.digest} {'0' * 64}"})
    assert "the tokenizers differ" in roll.fault(other)
    (difference,) = roll.differences(replace(first, node="two.local", computed={"m": "int8 on cpu, kernels none"}))
    assert "int8 on cpu" in difference
    assert "two.local" in difference
