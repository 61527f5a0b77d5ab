"""Replicas must be the same, so that it does not matter which of them answers: their checkpoints are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redraft.api import Engine
from redraft.models.origin import Origin


@dataclass(frozen=True)
class Identity:
    """The models of a replica, by the names that clients know them by."""

    replica: str
    node: str
    """The name of its machine."""
    weights: Mapping[str, str]
    """SHA-256 of each model's configuration and weights, and its tokenizer's."""
    computed: Mapping[str, str]
    """The dtype that each is computed in, and the kernels that it runs on."""


def identity_of(replica: str, node: str, engines: Mapping[str, Engine]) -> Identity:
    """Return the identity of a replica with these models; large weights are read through for it."""
    origins = {name: engine.origin for name, engine in engines.items() if engine.origin is not None}
    return Identity(
        replica,
        node,
        {name: f"{one.digest} {one.tokenizer}" for name, one in origins.items()},
        {name: _computed(one) for name, one in origins.items()},
    )


def _computed(origin: Origin) -> str:
    return f"{origin.dtype} on {origin.device}, kernels {origin.kernels}"


class Roll:
    """The replicas that have come so far; the first says what the others have to be."""

    def __init__(self) -> None:
        self._first: Identity | None = None

    def fault(self, one: Identity) -> str | None:
        """Say what is wrong with a replica whose checkpoint is not that of the first; None where it is."""
        first = self._first = self._first or one
        for name, digest in one.weights.items():
            known = first.weights.get(name, "")
            if digest != known:
                differing = _parts(digest, known)
                return (
                    f"the checkpoint of model {name!r} on {one.node} (replica {one.replica}) has the digest "
                    f"{digest[:12]}, that on {first.node} (replica {first.replica}) {known[:12] or 'none'}: "
                    f"{differing}; give all machines the same files"
                )
        return None

    def differences(self, one: Identity) -> list[str]:
        """Say in what a replica computes otherwise than the first, whose answers may not be its own token for token."""
        first = self._first or one
        return [
            f"model {name!r} is computed as {how} on {one.node} (replica {one.replica}), as "
            f"{first.computed.get(name)} on {first.node}: a request that is asked again there may get another answer"
            for name, how in one.computed.items()
            if first.computed.get(name) != how
        ]


def _parts(one: str, other: str) -> str:
    """Say which part of two digests differs."""
    names: Sequence[str] = ("the weights", "the tokenizers")
    pairs = zip(names, one.split(), [*other.split(), "", ""], strict=False)
    return " and ".join(name for name, here, there in pairs if here != there) + " differ"
