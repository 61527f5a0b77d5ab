"""Replicas on Ray Serve: ``serve run redraft.serve.ray:app``, and ``redraft serve --replicas`` on one machine.

Two deployments: replicas, which each load the models and run the whole application, and a front that has them answer.
Ray starts replicas, replaces those that end, follows the queue, and sends requests; which replica gets which is ours to
say (``PrefixRouter``). Names of Ray's that are used here are of its public API as of 2.60.
"""

import asyncio
import logging
import os
import platform
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, DeploymentActorConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica
from starlette.types import ASGIApp

from redraft.errors import BusyError, CheckpointError, GenerationError, RedraftError, ShuttingDownError
from redraft.kernels.library import physical_cores
from redraft.room import allowed, parse_memory
from redraft.serve.backend import ready
from redraft.serve.http.entry import Entry
from redraft.serve.http.hosts import own_names
from redraft.serve.replicas.arguments import Arguments
from redraft.serve.replicas.fleet import Forwarded, Part, ReplicaLostError, Report
from redraft.serve.replicas.front import front_app
from redraft.serve.replicas.hosting import hosted, report_of
from redraft.serve.replicas.prefixes import PrefixTable
from redraft.serve.replicas.sameness import Identity, Roll, identity_of
from redraft.serve.server import Listener, begin_log

_APPLICATION, _ROLL = "redraft", "roll"
# Seconds that a replica has to say how it is, and to hear from the roll.
_REPORT, _ENROL = 5.0, 60.0
# Seconds for which what they said last does, where one of them hangs.
_STALE = 60.0
# A replica that is told to end has so long for what it answers.
_GRACE = 30.0
# What replicas and front tell each other is small; Ray would take a third of the memory for it.
_STORE = 128 << 20

log = logging.getLogger("redraft.serve")


class PrefixRouter(RequestRouter):  # type: ignore[misc]
    """Sends a request to the replica that has most of its prompt, unless others have much less to do."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Begin with nothing known. Ray calls it with ``request_router_kwargs``."""
        self._prefixes = PrefixTable(**kwargs)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas, each a rank of its own, best first."""
        request = None if pending_request is None else _request_of(pending_request)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        if request is None:
            return [candidate_replicas]
        by_name = {one.replica_id.unique_id: one for one in candidate_replicas}
        loads = {name: self.replica_queue_len_cache.get(one.replica_id) or 0 for name, one in by_name.items()}
        return [[by_name[name]] for name in self._prefixes.ranked(request.blocks, loads, request.avoid)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Note where a request went."""
        request = _request_of(pending_request)
        if request is not None:
            self._prefixes.sent(request.blocks, replica_id.unique_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Note which replicas there are."""
        super().update_replicas(replicas)
        self._prefixes.keep([one.replica_id.unique_id for one in replicas])


def _request_of(pending: PendingRequest) -> Forwarded | None:
    return next((one for one in pending.args or () if isinstance(one, Forwarded)), None)


class RollActor:
    """The roll of the replicas of one version of a deployment; Ray keeps it as long as that."""

    def __init__(self) -> None:
        self._roll = Roll()

    def enrol(self, one: Identity) -> tuple[str | None, list[str]]:
        """Say what is wrong with a replica, and in what it computes otherwise than the first."""
        return self._roll.fault(one), self._roll.differences(one)


class Replica:
    """A replica: the models, and the application before them."""

    def __init__(self, arguments: Arguments) -> None:
        """Load the models. Raises what that does, and CheckpointError where their files are not those of the others."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        self._name = serve.get_replica_context().replica_tag
        settings = arguments.settings()
        engines = arguments.engines(settings)
        _enrol(identity_of(self._name, platform.node(), engines))
        self._backend = arguments.backend(engines, settings)
        ready(self._backend)

    async def answer(self, request: Forwarded) -> AsyncGenerator[Part]:
        """Answer a request; see ``hosted``."""
        async with aclosing(hosted(self._backend.app, request, self._name)) as parts:
            async for part in parts:
                yield part

    def report(self) -> Report:
        """Say how it is."""
        return report_of(self._backend, self._name)

    def check_health(self) -> None:
        """Raise GenerationError where nothing can be answered any longer, so that Ray starts another in its place."""
        if not self._backend.scheduler.alive:
            raise GenerationError(f"the scheduler of replica {self._name} has ended; its log says why")

    async def __del__(self) -> None:
        await asyncio.to_thread(self._backend.close, _GRACE)


def _enrol(one: Identity) -> None:
    """Have the roll compare a replica with the others; CheckpointError where it is not like them."""
    fault, differences = ray.get(serve.get_deployment_actor(_ROLL).enrol.remote(one), timeout=_ENROL)
    for difference in differences:
        log.warning("%s", difference)
    if fault is not None:
        raise CheckpointError(fault)


class RayFleet:
    """The replicas of a deployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._answers = handle.options(stream=True, method_name="answer")
        self._latest: list[Report] = []
        self._told = 0.0
        """The time at which the latest reports came."""

    async def ask(self, request: Forwarded) -> AsyncGenerator[Part]:
        """See ``Fleet``."""
        replica = ""
        response = self._answers.remote(request)
        try:
            async for part in response:
                replica = part.replica
                yield part
        except (RayActorError, ReplicaUnavailableError) as error:
            raise ReplicaLostError(replica, str(error).splitlines()[0]) from error
        except BackPressureError as error:
            raise BusyError("too many requests wait for a replica already; try again later") from error
        except DeploymentUnavailableError as error:
            raise ShuttingDownError("there are no replicas; the log of Ray Serve says why") from error
        finally:
            response.cancel()

    async def reports(self) -> list[Report]:
        """See ``Fleet``."""
        now = time.monotonic()
        try:
            found = await self._handle.broadcast("report").results_async(timeout_s=_REPORT, return_exceptions=True)
        except DeploymentUnavailableError:
            return []
        except TimeoutError:
            # One that hangs takes the others' answers with it. Before long Ray replaces it.
            return self._latest if now - self._told < _STALE else []
        self._latest, self._told = [one for one in found if isinstance(one, Report)], now
        return self._latest


class Ingress:
    """The front, behind Ray's own HTTP proxies."""

    def __init__(self, replicas: Any, arguments: Arguments) -> None:
        self._app = front_app(RayFleet(replicas), arguments.settings())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app


def app(arguments: Arguments) -> Any:
    """Make the application that ``serve run redraft.serve.ray:app`` and ``serve deploy`` start: see ``Arguments``."""
    ingress = serve.deployment(serve.ingress()(Ingress), name="front", num_replicas=arguments.fronts)
    # It computes nothing; a processor of its own it does not need.
    ingress = ingress.options(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=10_000)
    return ingress.bind(replicas(arguments), arguments)


def replicas(arguments: Arguments) -> Any:
    """Make the deployment of the replicas."""
    if arguments.scales:
        count: dict[str, Any] = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=arguments.min_replicas,
                max_replicas=arguments.max_replicas,
                target_ongoing_requests=arguments.target_ongoing_requests,
            )
        }
    else:
        count = {"num_replicas": arguments.replicas or arguments.min_replicas}
    return serve.deployment(
        Replica,
        name="replicas",
        # Twice those that run: the next ones are there when a place is free, and the others can still go elsewhere.
        max_ongoing_requests=2 * arguments.max_concurrency,
        max_queued_requests=arguments.max_waiting,
        graceful_shutdown_timeout_s=_GRACE,
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter, request_router_kwargs={"worth": arguments.prefix_worth}
        ),
        deployment_actors=[
            DeploymentActorConfig(name=_ROLL, actor_class=ray.remote(RollActor), actor_options={"num_cpus": 0})
        ],
        **count,
    ).bind(arguments)


def run(arguments: Arguments, *, host: str, port: int, grace: float) -> None:
    """Serve ``arguments.replicas`` on this machine until a signal says to stop.

    Raises RedraftError, with its reason, where the replicas do not start, and RequestError where the address cannot be
    listened at.
    """
    settings = arguments.settings()
    begin_log(host, settings)
    leave = _join(arguments.replicas or 1)
    try:
        handle = _started(_shared(arguments, arguments.replicas or 1))
        server = Listener(
            front_app(RayFleet(handle), settings, own_names(host)),
            settings,
            Entry(),
            host=host,
            port=port,
            grace=grace,
            close=lambda: None,
        )
        server.listen(host, port)
    finally:
        leave()


def _join(count: int) -> Callable[[], None]:
    """Begin Ray on this machine, or connect to the one that RAY_ADDRESS says; return what ends that again."""
    if ray.is_initialized():
        return _delete
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)

        def disconnect() -> None:
            _delete()
            ray.shutdown()

        return disconnect
    # Ray has its workers give way to all else on a machine; these are what the machine is for.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Not a cluster that happens to run here: that one has to be asked for.
    ray.init("local", num_cpus=count, include_dashboard=False, log_to_driver=False, object_store_memory=_STORE)
    return ray.shutdown


def _delete() -> None:
    """Take the application from a cluster that stays."""
    with suppress(Exception):
        serve.delete(_APPLICATION)


def _started(arguments: Arguments) -> Any:
    """Start the replicas, and return their handle once they are ready."""
    serve.start(proxy_location="Disabled")
    try:
        return serve.run(replicas(arguments), name=_APPLICATION, route_prefix=None)
    except RuntimeError as error:
        raise RedraftError(f"the replicas did not start: {_reason(str(error))}") from error


def _reason(said: str) -> str:
    """Find the error of ours in what Ray says of it, or return all of that."""
    found = re.findall(r"redraft\.errors\.\w+: (.+)", said)
    return found[-1].strip() if found else said


def _shared(arguments: Arguments, count: int) -> Arguments:
    """Give each of so many replicas on this machine its share of processors and memory."""
    given = parse_memory(arguments.memory)
    memory = allowed(given, arguments.device) if arguments.device in ("auto", "cpu") else None
    return arguments.model_copy(
        update={
            "num_cpus": 1.0,
            "threads": arguments.threads or max(1, physical_cores() // count),
            "memory": arguments.memory if memory is None else str(memory.free // count),
            "kv_bytes": None if arguments.kv_bytes is None else max(1, arguments.kv_bytes // count),
        }
    )
