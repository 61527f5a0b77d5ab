"""The arguments of an application of replicas: the options of ``redraft serve``, and how many replicas.

It travels to every process of it, each of which makes what it needs: engines, settings, a folder for recordings.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from redraft.api import Engine
from redraft.engine.request import check_listeners, check_mode
from redraft.engine.scheduler import MAX_BATCH_ROWS, MAX_CONCURRENCY
from redraft.errors import CheckpointError, RequestError
from redraft.kernels.library import use_threads
from redraft.loading import load, share_out
from redraft.measure.tune.recipe import read_recipe
from redraft.models.base import GenerationMode
from redraft.models.checkpoint import DType, served_by_default
from redraft.record.recorder import RecordingFolder
from redraft.room import parse_memory
from redraft.serve.backend import Backend, check_names, share_memory
from redraft.serve.http.hosts import check_hosts
from redraft.serve.http.limits import RequestLimits
from redraft.serve.http.security import check_keys
from redraft.serve.state import ServerSettings

KEY_VARIABLE = "REDRAFT_API_KEY"

Positive = Annotated[int, Field(ge=1)]


def _as_list(given: object) -> object:
    return [given] if isinstance(given, str) else given


Texts = Annotated[list[str], BeforeValidator(_as_list)]


class Arguments(BaseModel):
    """The options of one application. Raises pydantic's ValidationError, which names each that is wrong."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: Texts = Field(default_factory=served_by_default, min_length=1)
    """A bundled name, a folder, a GGUF file or a hub id, that each machine finds; or several. By default all that
    ship."""
    name: Texts = Field(default_factory=list)
    """The names that clients call the models by; by default their own."""
    revision: str | None = None
    dtype: DType = "auto"
    device: str = "auto"
    threads: Positive | None = None
    """Threads of a replica; None for as many as ``num_cpus``."""
    memory: str = "auto"
    """The memory that a replica may take, such as "24GB"."""
    kv_bytes: Positive | None = None
    pack_folder: str | None = "auto"
    draft_model: str | None = None

    replicas: Positive | None = None
    """None for as many as are needed, between ``min_replicas`` and ``max_replicas``."""
    min_replicas: Positive = 1
    max_replicas: Positive | None = None
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 8.0
    """Open requests a replica, running or waiting, above which there shall be more replicas."""
    prefix_worth: Annotated[float, Field(ge=0)] = 4.0
    """Open requests that a replica may have more than another and still get one whose whole prompt it has cached; half
    as many where it has half of it. 0: the load alone decides."""
    fronts: Positive = 1
    """Processes that take clients' requests."""
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    """Processors of a replica, as Ray counts them."""
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None = None
    """The SHA-256 of the first model's configuration and weights, or its beginning, which every replica must have; None
    for that of the first replica that comes."""

    max_concurrency: Positive = MAX_CONCURRENCY
    max_waiting: Annotated[int, Field(ge=0)] = 256
    """Requests that may wait for a replica; more are refused with 429."""
    max_batch_rows: Positive = MAX_BATCH_ROWS
    max_tokens: Positive | None = None
    max_prompt_tokens: Positive | None = None
    max_body_bytes: Positive = 4 << 20
    mode: GenerationMode | None = None
    recipe: str | None = None
    api_keys: Texts = Field(default_factory=list)
    """Keys that clients must send; by default those in REDRAFT_API_KEY where the processes run."""
    cors: Texts = Field(default_factory=list)
    allowed_hosts: Texts | None = None
    log_prompts: bool = False
    record: str | None = None
    record_prompt: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse what contradicts itself, before any process is started."""
        if self.replicas is not None and self.max_replicas is not None:
            raise ValueError("replicas says how many there are; leave out max_replicas, or replicas for a range")
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, fewer than min_replicas, {self.min_replicas}")
        if self.name and len(self.name) != len(self.model):
            raise ValueError(f"name has {len(self.name)} names for {len(self.model)} models; give each one, or none")
        for option in ("revision", "recipe", "draft_model"):
            if getattr(self, option) is not None and len(self.model) > 1:
                raise ValueError(
                    f"{option} is for one model, and {len(self.model)} are to be served; name one as model"
                )
        try:
            check_names(self.names)
            parse_memory(self.memory)
            check_keys(self.api_keys)
            check_hosts(self.allowed_hosts or ())
        except RequestError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def names(self) -> list[str]:
        """The names that clients call the models by, in order."""
        return self.name or [Path(one).name for one in self.model]

    @property
    def scales(self) -> bool:
        """True where the number of replicas follows the queue."""
        return self.replicas is None and (self.max_replicas or self.min_replicas) > self.min_replicas

    def settings(self) -> ServerSettings:
        """Make the settings of the server that each replica is, and the front. Raises RequestError for a recipe that is
        none, and a variable for keys that is set and empty; RecordingError where nothing can be recorded."""
        given = os.environ.get(KEY_VARIABLE)
        if not self.api_keys and given is not None and not given.strip():
            raise RequestError(f"{KEY_VARIABLE} is set and empty; give it a key, or unset it to let everybody in")
        return ServerSettings(
            model=self.names[0],
            api_keys=self.api_keys or (given or "").split(),
            cors=self.cors,
            allowed_hosts=self.allowed_hosts,
            limits=RequestLimits(body_bytes=self.max_body_bytes, prompt_tokens=self.max_prompt_tokens),
            max_tokens=self.max_tokens,
            log_prompts=self.log_prompts,
            record=None if self.record is None else RecordingFolder(self.record, keep_prompts=self.record_prompt),
            mode=self.mode,
            recipe=None if self.recipe is None else read_recipe(self.recipe),
        )

    def engines(self, settings: ServerSettings) -> dict[str, Engine]:
        """Load the models, by name. Raises what ``redraft.load`` does, RequestError for a mode or recordings that a
        model does not have, and CheckpointError for another ``digest``."""
        use_threads(self.threads or max(1, int(self.num_cpus)))
        limits = share_out(
            self.model,
            dtype=self.dtype,
            device=self.device,
            memory=parse_memory(self.memory),
            kv_bytes=self.kv_bytes,
            pack_folder=self.pack_folder,
        )
        loaded = [
            load(
                one,
                revision=self.revision,
                dtype=self.dtype,
                device=self.device,
                kv_bytes=self.kv_bytes,
                pack_folder=self.pack_folder,
                draft_model=self.draft_model,
                memory=limit,
            )
            for one, limit in zip(self.model, limits, strict=True)
        ]
        share_memory(loaded, self.kv_bytes)
        engines = dict(zip(self.names, loaded, strict=True))
        for name, engine in engines.items():
            try:
                modes = engine.runtime.modes
                check_listeners(None, settings.record, check_mode(self.mode, modes), modes)
            except RequestError as error:
                raise RequestError(f"{name}: {error}") from error
        self._check_digest(loaded[0])
        return engines

    def _check_digest(self, engine: Engine) -> None:
        found = None if engine.origin is None else engine.origin.digest
        if self.digest is not None and not (found or "").startswith(self.digest):
            raise CheckpointError(
                f"model {self.names[0]!r} on {platform.node()} has the digest {found}, and {self.digest} was asked "
                "for; give this machine the right files, or leave out digest"
            )

    def backend(self, engines: Mapping[str, Engine], settings: ServerSettings) -> Backend:
        """Make what answers in a replica: its front has decided who may ask."""
        return Backend(
            engines,
            settings,
            names=None,
            max_concurrency=self.max_concurrency,
            max_waiting=self.max_waiting,
            max_batch_rows=self.max_batch_rows,
        )
