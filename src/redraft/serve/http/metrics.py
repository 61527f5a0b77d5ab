"""Counts of one server for ``/metrics``, in Prometheus's text format."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from redraft.engine.result import Usage
from redraft.engine.runtime import Runtime
from redraft.engine.scheduler import Scheduler

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96)
_TOKENS_A_STEP = (0.5, 1, 2, 4, 8, 12, 16, 24, 32, 64, 128)
# The scheduler's counts, by the field of its load.
_COUNTS = (
    ("forwards", "forwards", "Batches that the model computed, a forward each."),
    ("batched_requests", "requests", "Requests in all of these batches together."),
    ("batched_rows", "rows", "Rows in all of these batches together."),
    ("preempted", "preempted", "Times a request gave back its memory and began again."),
    ("finished", "finished", "Requests that the engine finished."),
    ("failed", "failed", "Requests that ended with an error."),
    ("cancelled", "cancelled", "Requests that were cancelled."),
)


class ServerMetrics:
    """Counters and histograms of one server, those of answers by model."""

    def __init__(self, scheduler: Scheduler, names: Mapping[str, Runtime]) -> None:
        """``names``: the models by the names that clients know them by."""
        self._registry = CollectorRegistry()
        self._registry.register(_SchedulerCollector(scheduler, names))
        self.requests = self._counter("http_requests", "Requests by route and status.", "route", "status")
        self.tokens = self._counter(
            "tokens", "Tokens of finished answers: prompt, cached, completion.", "model", "kind"
        )
        self.canvases = self._counter("canvases", "Canvases of finished answers.", "model")
        self.steps = self._counter("denoising_steps", "Denoising steps of finished answers.", "model")
        self.steps_per_canvas = self._histogram(
            "steps_per_canvas", "Denoising steps a canvas, of each answer its mean.", _STEPS
        )
        self.tokens_per_step = self._histogram(
            "tokens_per_step", "Completion tokens a denoising step, of each answer.", _TOKENS_A_STEP
        )
        self.tokens_per_forward = self._histogram(
            "tokens_per_forward", "Completion tokens a forward that wrote them, of each answer.", _TOKENS_A_STEP
        )
        self.accepted = self._counter(
            "accepted_drafts", "Drafted tokens of finished answers that were accepted.", "model"
        )
        self.first_text = self._histogram(
            "time_to_first_text_seconds", "From a request's arrival to the first text that is ready for it.", _SECONDS
        )
        self.seconds = self._histogram(
            "request_seconds", "From a request's arrival to the end of its answer.", _SECONDS
        )

    def of(self, model: str) -> "ModelMetrics":
        """Return what counts the answers of one model."""
        return ModelMetrics(self, model)

    def text(self) -> bytes:
        """Return the whole page."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"redraft_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"redraft_{name}", text, ["model"], buckets=buckets, registry=self._registry)


class ModelMetrics:
    """Counts the answers of one model. What it counts is there from the start, at 0."""

    def __init__(self, server: ServerMetrics, model: str) -> None:
        self._tokens = {kind: server.tokens.labels(model, kind) for kind in ("prompt", "cached", "completion")}
        self._canvases, self._steps = server.canvases.labels(model), server.steps.labels(model)
        self._accepted = server.accepted.labels(model)
        self._steps_per_canvas = server.steps_per_canvas.labels(model)
        self._tokens_per_step = server.tokens_per_step.labels(model)
        self._tokens_per_forward = server.tokens_per_forward.labels(model)
        self.first_text, self.seconds = server.first_text.labels(model), server.seconds.labels(model)

    def answered(self, usage: Usage) -> None:
        """Count one finished answer."""
        self._tokens["prompt"].inc(usage.prompt_tokens)
        self._tokens["cached"].inc(usage.cached_prompt_tokens)
        self._tokens["completion"].inc(usage.completion_tokens)
        self._canvases.inc(usage.canvases)
        self._steps.inc(usage.denoising_steps)
        self._accepted.inc(usage.accepted_drafts)
        if usage.canvases:
            self._steps_per_canvas.observe(usage.denoising_steps / usage.canvases)
        if usage.completion_tokens and usage.denoising_steps:
            self._tokens_per_step.observe(usage.tokens_per_step)
        if usage.completion_tokens and usage.forwards:
            self._tokens_per_forward.observe(usage.tokens_per_forward)

    def scored(self, usage: Usage) -> None:
        """Count one text that was scored; nothing was written."""
        self._tokens["prompt"].inc(usage.prompt_tokens + usage.completion_tokens)
        self._tokens["cached"].inc(usage.cached_prompt_tokens)


class _SchedulerCollector(Collector):
    """Reads the scheduler's own counts when they are asked for."""

    def __init__(self, scheduler: Scheduler, names: Mapping[str, Runtime]) -> None:
        self._scheduler, self._names = scheduler, names

    def collect(self) -> Iterator[Metric]:
        """Yield one family a count, of each model."""
        loads = {name: self._scheduler.load_of(runtime) for name, runtime in self._names.items()}
        pools = {name: runtime.pool for name, runtime in self._names.items()}
        for name, text in (
            ("running", "Requests that share the model's forwards."),
            ("waiting", "Requests in the queue."),
        ):
            gauge = GaugeMetricFamily(f"redraft_{name}", text, labels=["model"])
            for model, load in loads.items():
                gauge.add_metric([model], getattr(load, name))
            yield gauge
        memory = GaugeMetricFamily(
            "redraft_kv_bytes",
            "Keys and values, a draft model's included: in use, kept for later; and allowed, of all models together.",
            labels=["model", "kind"],
        )
        for model, runtime in self._names.items():
            used, cached = sum(one.used for one in runtime.pools), sum(one.cached for one in runtime.pools)
            for kind, amount in (("used", used), ("cached", cached), ("budget", runtime.pool.budget)):
                if amount is not None:
                    memory.add_metric([model, kind], amount)
        yield memory
        for name, counts, text in (
            ("prompt_tokens", [pool.lookups for pool in pools.values()], "Tokens of all prompts that were begun."),
            ("prompt_tokens_reused", [pool.hits for pool in pools.values()],
             "Those of them that were not encoded again."),
            *((name, [getattr(load, field) for load in loads.values()], text) for name, field, text in _COUNTS),
        ):  # fmt: skip
            counter = CounterMetricFamily(f"redraft_{name}", text, labels=["model"])
            for model, count in zip(self._names, counts, strict=True):
                counter.add_metric([model], count)
            yield counter
