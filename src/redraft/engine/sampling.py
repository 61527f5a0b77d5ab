"""The sampling parameters of autoregressive servers, as a canvas takes them (docs/sampling.md defines each)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from redraft.canvas.penalties import Counts, Forbidden, Penalties, Standing, logit_changes
from redraft.canvas.shaping import Filters, Shaping
from redraft.errors import RequestError

MAX_BIAS = 100.0
MAX_PENALTY = 2.0
REPETITION = (0.01, 100.0)

LogitBias = Mapping[int, float]
"""Added to the logits of tokens, by their ids."""


@dataclass(frozen=True)
class Sampling:
    """The checked parameters of one request; the defaults ask for nothing."""

    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()

    @property
    def filters(self) -> Filters:
        return Filters(self.top_k, self.top_p, self.min_p)

    @property
    def penalties(self) -> Penalties:
        return Penalties(self.presence_penalty, self.frequency_penalty, self.repetition_penalty)

    def ends(self, end_token_ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens at which an answer ends, of a checkpoint with these end tokens."""
        own = () if self.ignore_eos else tuple(end_token_ids)
        return (*own, *(token for token in self.stop_token_ids if token not in own))

    def shaping(
        self,
        end_token_ids: Sequence[int],
        mask: int | None,
        answer: Sequence[int],
        canvas: Standing,
        nowhere: Sequence[int] = (),
    ) -> Shaping | None:
        """Make the shaping of a canvas behind the tokens of ``answer``; None for nothing. ``mask``: the token that is
        never text, of a model that has one. ``nowhere``: more tokens that have no place on it."""
        length, filters = len(canvas.tokens), self.filters
        forbidden = [Forbidden(self.ends(end_token_ids), min(length, self.min_tokens - len(answer)))]
        forbidden.append(Forbidden(tuple(nowhere), length))
        if self.ignore_eos:
            forbidden.append(Forbidden(tuple(end_token_ids), length))
        if mask is not None and not filters.leave_all:
            # What is left is text: the mask takes no token's place.
            forbidden.append(Forbidden((mask,), length))
        counts = None
        if not self.penalties.none:
            counts = Counts.of(answer, canvas, (*end_token_ids, *self.stop_token_ids))
        changes = logit_changes(length, self.logit_bias, forbidden, counts, self.penalties)
        return None if changes is None and filters.leave_all else Shaping(filters, changes)


NOTHING = Sampling()


def check_sampling(
    *,
    vocab_size: int,
    room: int,
    top_p: float,
    top_k: int | None,
    min_p: float,
    logit_bias: object,
    presence_penalty: float,
    frequency_penalty: float,
    repetition_penalty: float,
    min_tokens: int,
    ignore_eos: bool,
    stop_token_ids: Sequence[int] | None,
) -> Sampling:
    """Check the parameters; ``room``: tokens that the answer may have at most. RequestError names what is wrong."""
    if not isinstance(ignore_eos, bool):
        raise RequestError(f"ignore_eos {ignore_eos!r} must be True or False")
    if _whole("min_tokens", min_tokens, 0) > room:
        raise RequestError(f"min_tokens {min_tokens} is more than the {room} tokens that the answer may have at most")
    return Sampling(
        top_p=_number("top_p", top_p, 0.0, 1.0),
        top_k=_top_k(top_k),
        min_p=_number("min_p", min_p, 0.0, 1.0),
        logit_bias=_bias(logit_bias, vocab_size),
        presence_penalty=_number("presence_penalty", presence_penalty, -MAX_PENALTY, MAX_PENALTY),
        frequency_penalty=_number("frequency_penalty", frequency_penalty, -MAX_PENALTY, MAX_PENALTY),
        repetition_penalty=_number("repetition_penalty", repetition_penalty, *REPETITION),
        min_tokens=min_tokens,
        ignore_eos=ignore_eos,
        stop_token_ids=_tokens("stop_token_ids", stop_token_ids, vocab_size),
    )


def check_with_constraint(sampling: Sampling, end_token_ids: Sequence[int]) -> None:
    """Refuse what decides where an answer ends, which a constraint does."""
    others = set(sampling.stop_token_ids) - set(end_token_ids)
    for name, given in (
        ("min_tokens", sampling.min_tokens > 0),
        ("ignore_eos", sampling.ignore_eos),
        ("stop_token_ids", bool(others)),
    ):
        if given:
            raise RequestError(f"{name} and a constraint exclude each other; what it allows says where the answer ends")


def _number(name: str, value: object, minimum: float, maximum: float) -> float:
    # NaN is not between any two.
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
        raise RequestError(f"{name} {value!r} must be a number from {minimum:g} to {maximum:g}")
    return float(value)


def _top_k(value: object) -> int | None:
    # Clients write -1 and 0 for none as well.
    if value is None or (not isinstance(value, bool) and value in (0, -1)):
        return None
    return _whole("top_k", value, 1)


def _whole(name: str, value: object, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise RequestError(f"{name} {value!r} must be a whole number, {minimum} or more")
    return value


def _tokens(name: str, given: object, vocab_size: int) -> tuple[int, ...]:
    if given is None:
        return ()
    if isinstance(given, str | bytes | Tensor) or not isinstance(given, Sequence):
        raise RequestError(f"{name} {given!r} must be a list of token ids")
    return tuple(_token(name, token, vocab_size) for token in given)


def _token(name: str, token: object, vocab_size: int) -> int:
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
        raise RequestError(f"{name} has {token!r}; token ids are whole numbers from 0 to {vocab_size - 1}")
    return token


def _bias(given: object, vocab_size: int) -> tuple[tuple[int, float], ...]:
    if given is None:
        return ()
    # Recordings hold pairs; JSON's keys are texts.
    pairs = list(given.items()) if isinstance(given, Mapping) else given
    if not isinstance(pairs, list | tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise RequestError(f"logit_bias {given!r} must be a mapping of token ids to numbers")
    found: dict[int, float] = {}
    for key, value in pairs:
        number = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key
        token = _token("logit_bias", number, vocab_size)
        found[token] = _number(f"logit_bias of token {token}", value, -MAX_BIAS, MAX_BIAS)
    return tuple(sorted((token, value) for token, value in found.items() if value))
