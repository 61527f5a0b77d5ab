"""The models that are being served: what runs their requests, what clients may ask of them, and who they are."""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request as HttpRequest

from redraft.engine.fairness import Client
from redraft.engine.generation import Recorders
from redraft.engine.runtime import Runtime
from redraft.engine.scheduler import Scheduler
from redraft.errors import RedraftError
from redraft.measure.tune.recipe import Recipe
from redraft.models.base import GenerationMode
from redraft.models.tokenizer import ChatTokenizer
from redraft.serve.errors import ApiError, of_engine
from redraft.serve.http.hosts import check_hosts
from redraft.serve.http.limits import RequestLimits
from redraft.serve.http.metrics import ModelMetrics, ServerMetrics
from redraft.serve.http.presence import ASKING, owner_of
from redraft.serve.http.security import check_keys
from redraft.serve.preparing import Preparing

T = TypeVar("T")
log = logging.getLogger("redraft.serve")


@dataclass(frozen=True)
class ServerSettings:
    """The options that a server was started with. Raises RequestError for an API key that is empty, and for an allowed
    host that is no name."""

    model: str
    """The name that clients know the model by; of several, that of the one which answers where none is named."""
    api_keys: Sequence[str] = ()
    cors: Sequence[str] = ()
    """Origins whose pages may ask."""
    allowed_hosts: Sequence[str] | None = None
    """Names under which the server may be asked for, besides localhost, where it listens, and all addresses; ``*`` for
    any. None for these alone, and for any where there are API keys."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    max_tokens: int | None = None
    """The limit of an answer to a client that sets none; None for what the context has left."""
    log_prompts: bool = False
    record: Recorders | None = None
    """Keeps what happens in every request."""
    mode: GenerationMode | None = None
    """The mode of an answer to a client that names none; None for the checkpoint's."""
    recipe: Recipe | None = None
    """Settings of answers to clients that do not name theirs."""

    def __post_init__(self) -> None:
        check_keys(self.api_keys)
        check_hosts(self.allowed_hosts or ())


@dataclass(frozen=True)
class Serving:
    """One model that is being served."""

    runtime: Runtime
    """The model, its tokenizer, its memory and its compiled constraints."""
    scheduler: Scheduler
    metrics: ModelMetrics
    settings: ServerSettings
    """The server's own, with this model's name."""
    preparing: Preparing

    @property
    def limits(self) -> RequestLimits:
        return self.settings.limits

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.runtime.tokenizer

    async def check(self, check: Callable[[], T], fields: Mapping[str, str]) -> T:
        """Run ``check`` in a thread when it is the client's turn, for it may tokenize and compile; ApiError, by
        ``fields``, for what it refuses."""
        try:
            return await self.preparing.run(check)
        except RedraftError as error:
            raise of_engine(error, fields) from error

    def note_prompt(self, http: HttpRequest, prompt: object) -> None:
        """Log a prompt, if the server was asked to."""
        if self.settings.log_prompts:
            log.info("%s prompt: %r", http.url.path, prompt)


@dataclass(frozen=True)
class AllServing:
    """All models that are being served, by name, and what they have in common."""

    models: Mapping[str, Serving]
    scheduler: Scheduler
    metrics: ServerMetrics
    settings: ServerSettings
    preparing: Preparing

    @property
    def default(self) -> Serving:
        """The model that answers a request which names none."""
        return self.models[self.settings.model]

    def model(self, name: str | None) -> Serving:
        """Return the model of a name; ApiError where there is none of it."""
        if name is None:
            return self.default
        found = self.models.get(name)
        if found is None:
            known = ", ".join(map(repr, self.models))
            there = f"this is {known}" if len(self.models) == 1 else f"these are {known}"
            raise ApiError(
                404, f"the model {name!r} is not served here; {there}", param="model", code="model_not_found"
            )
        return found


def all_serving(http: HttpRequest) -> AllServing:
    """Return all that the app of this HTTP request serves."""
    found: AllServing = http.app.state.serving
    return found


def serving(http: HttpRequest, model: str | None = None) -> Serving:
    """Return the model that a request names, or the one that answers where it names none; ApiError for another."""
    return all_serving(http).model(model)


def client_of(http: HttpRequest, user: str | None = None) -> Client:
    """Name the client that a request counts for: its API key or address, and the user that it names."""
    return Client(owner_of(http.scope, bool(all_serving(http).settings.api_keys)), user or "")


def new_seed() -> int:
    """Draw a seed for a request that has none; once, so that a request that begins again stays the same. One that is
    answered for another process has them from there, so that it stays the same on another replica, too."""
    asking = ASKING.get()
    return secrets.randbits(32) if asking is None or asking.seeds is None else asking.seeds.next()
