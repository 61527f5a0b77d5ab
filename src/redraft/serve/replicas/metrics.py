"""The metrics of all replicas and of the front on one page, with a label for which of them."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from redraft.serve.replicas.fleet import Report

LABEL = "replica"


class FrontMetrics:
    """Counts what happens to requests between clients and replicas."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("front_requests", "Requests by the status that clients got.", "status")
        self.lost = self._counter("replica_losses", "Times that a replica was lost with a request.")
        self.retried = self._counter("retried_requests", "Times that a request was sent to another replica.")
        self.broken = self._counter("broken_streams", "Streams that ended with an error, their replica having gone.")

    def text(self, reports: Sequence[Report]) -> bytes:
        """Return the whole page, on which the front's own have the label ``replica="front"``."""
        replicas = GaugeMetricFamily("redraft_replicas", "Replicas that say how they are.")
        replicas.add_metric([], len(reports))
        pages = [("front", generate_latest(self._registry)), *((one.replica, one.metrics) for one in reports)]
        whole = CollectorRegistry()
        whole.register(_Given([replicas, *labelled(pages)]))
        return generate_latest(whole)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"redraft_{name}", text, labels, registry=self._registry)


def labelled(pages: Iterable[tuple[str, bytes]]) -> list[Metric]:
    """Return the metrics of pages, those of one name together, each sample with its page's name as a label."""
    found: dict[str, Metric] = {}
    for replica, page in pages:
        for family in text_string_to_metric_families(page.decode()):
            kept = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                kept.samples.append(sample._replace(labels={**sample.labels, LABEL: replica}))
    return [*found.values()]


class _Given(Collector):
    """Metrics that are there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._families
