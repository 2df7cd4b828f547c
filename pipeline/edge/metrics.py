"""What a collector counts, for Prometheus, on a port of its own. Nothing here tells one visitor from another.

The loop counts in plain numbers, and a scrape makes families of them: prometheus_client's own counters take a lock for each, which
is more than counting. Only the loop's thread counts.
"""

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from pipeline.edge.delivery import Delivery

_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10)


class _Times:
    """How long the answers of a route took."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS_S) + 1)
        self.total_s = 0.0


class _Counts(Collector):
    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.events: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.times: defaultdict[str, _Times] = defaultdict(_Times)

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        requests = CounterMetricFamily("edge_requests", "Answers, by route and status.", labels=["route", "status"])
        for (route, status), count in list(self.answers.items()):
            requests.add_metric([route, str(status)], count)
        events = CounterMetricFamily("edge_events", "Accepted events, by type.", labels=["type"])
        refused = CounterMetricFamily("edge_refused", "Refused hits, by reason.", labels=["reason"])
        for family, counts in ((events, self.events), (refused, self.refused)):
            for name, count in list(counts.items()):
                family.add_metric([name], count)
        seconds = HistogramMetricFamily("edge_answer_seconds", "Time from a request to its answer, by route.", labels=["route"])
        for route, times in list(self.times.items()):
            bounds = [*map(str, map(float, _BUCKETS_S)), "+Inf"]
            seconds.add_metric([route], list(zip(bounds, accumulate(times.counts), strict=True)), times.total_s)
        yield from (requests, events, refused, seconds)


REGISTRY = CollectorRegistry()
_counts = _Counts()
REGISTRY.register(_counts)
_SPOOLED = Gauge("edge_spool_bytes", "What Kafka does not have yet.", registry=REGISTRY)
_AWAY = Gauge("edge_kafka_away", "1 while records go to the spool.", registry=REGISTRY)


def answered(route: str, status: int, began: float) -> None:
    """Counts an answer; `began` as `time.perf_counter` had it when the request was there."""
    took = time.perf_counter() - began
    _counts.answers[route, status] += 1
    times = _counts.times[route]
    times.counts[bisect_left(_BUCKETS_S, took)] += 1
    times.total_s += took


def accepted(event_type: str, count: int = 1) -> None:
    _counts.events[event_type] += count


def refused(reason: str) -> None:
    _counts.refused[reason] += 1


def serve(host: str, port: int, delivery: Delivery) -> None:
    """Answers GET /metrics in a thread. OSError if the port is taken."""
    _SPOOLED.set_function(lambda: delivery.spool.size)
    _AWAY.set_function(lambda: float(delivery.away))
    start_http_server(port, host, registry=REGISTRY)
