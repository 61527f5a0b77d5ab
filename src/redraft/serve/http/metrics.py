"""Counts of one server for ``/metrics``, in Prometheus's text format."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from redraft.engine.result import Usage
from redraft.engine.scheduler import Scheduler

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96)
_TOKENS_A_STEP = (0.5, 1, 2, 4, 8, 12, 16, 24, 32, 64, 128)


class ServerMetrics:
    """Counters and histograms of one server."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_SchedulerCollector(scheduler))
        self.requests = Counter(
            "redraft_http_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._tokens = Counter(
            "redraft_tokens", "Tokens of finished answers: prompt, cached, completion.", ["kind"],
            registry=self._registry,
        )  # fmt: skip
        self._canvases = Counter("redraft_canvases", "Canvases of finished answers.", registry=self._registry)
        self._steps = Counter(
            "redraft_denoising_steps", "Denoising steps of finished answers.", registry=self._registry
        )
        self._steps_per_canvas = Histogram(
            "redraft_steps_per_canvas", "Denoising steps a canvas, of each answer its mean.", buckets=_STEPS,
            registry=self._registry,
        )  # fmt: skip
        self._tokens_per_step = Histogram(
            "redraft_tokens_per_step", "Completion tokens a denoising step, of each answer.", buckets=_TOKENS_A_STEP,
            registry=self._registry,
        )  # fmt: skip
        self._tokens_per_forward = Histogram(
            "redraft_tokens_per_forward", "Completion tokens a forward that wrote them, of each answer.",
            buckets=_TOKENS_A_STEP, registry=self._registry,
        )  # fmt: skip
        self._accepted = Counter(
            "redraft_accepted_drafts", "Drafted tokens of finished answers that were accepted.", registry=self._registry
        )
        self.first_text = Histogram(
            "redraft_time_to_first_text_seconds", "From a request's arrival to the first text that is ready for it.",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "redraft_request_seconds", "From a request's arrival to the end of its answer.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip

    def answered(self, usage: Usage) -> None:
        """Count one finished answer."""
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("cached").inc(usage.cached_prompt_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)
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
        self._tokens.labels("prompt").inc(usage.prompt_tokens + usage.completion_tokens)
        self._tokens.labels("cached").inc(usage.cached_prompt_tokens)

    def text(self) -> bytes:
        """Return the whole page."""
        return generate_latest(self._registry)


class _SchedulerCollector(Collector):
    """Reads the scheduler's own counts when they are asked for."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        """Yield one family a count."""
        load = self._scheduler.load
        for name, value, text in (
            ("running", load.running, "Requests that share the model's forwards."),
            ("waiting", load.waiting, "Requests in the queue."),
        ):
            yield GaugeMetricFamily(f"redraft_{name}", text, value=value)
        pool, pools = self._scheduler.runtime.pool, self._scheduler.runtime.pools
        memory = GaugeMetricFamily(
            "redraft_kv_bytes",
            "Keys and values, a draft model's included: in use, kept for later, allowed.",
            labels=["kind"],
        )
        used, cached = sum(one.used for one in pools), sum(one.cached for one in pools)
        for kind, amount in (("used", used), ("cached", cached), ("budget", pool.budget)):
            if amount is not None:
                memory.add_metric([kind], amount)
        yield memory
        for name, value, text in (
            ("prompt_tokens", pool.lookups, "Tokens of all prompts that were begun."),
            ("prompt_tokens_reused", pool.hits, "Those of them that were not encoded again."),
            ("forwards", load.forwards, "Batches that the model computed, a forward each."),
            ("batched_requests", load.requests, "Requests in all of these batches together."),
            ("batched_rows", load.rows, "Rows in all of these batches together."),
            ("preempted", load.preempted, "Times a request gave back its memory and began again."),
            ("finished", load.finished, "Requests that the engine finished."),
            ("failed", load.failed, "Requests that ended with an error."),
            ("cancelled", load.cancelled, "Requests that were cancelled."),
        ):
            yield CounterMetricFamily(f"redraft_{name}", text, value=value)
