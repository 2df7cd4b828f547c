"""What a collector counts, for Prometheus, on a port of its own. Nothing here tells one visitor from another."""

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from pipeline.edge.delivery import Delivery

REGISTRY = CollectorRegistry()
_REQUESTS = Counter("edge_requests", "Answers, by route and status.", ["route", "status"], registry=REGISTRY)
_EVENTS = Counter("edge_events", "Accepted events, by type.", ["type"], registry=REGISTRY)
_REFUSED = Counter("edge_refused", "Refused hits, by reason.", ["reason"], registry=REGISTRY)
_SECONDS = Histogram(
    "edge_answer_seconds",
    "Time from a request to its answer, by route.",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10),
    registry=REGISTRY,
)
# By their labels: prometheus_client makes texts of them and takes a lock each time, which is more than counting.
requests, events, refused, seconds = cache(_REQUESTS.labels), cache(_EVENTS.labels), cache(_REFUSED.labels), cache(_SECONDS.labels)
_SPOOLED = Gauge("edge_spool_bytes", "What Kafka does not have yet.", registry=REGISTRY)
_AWAY = Gauge("edge_kafka_away", "1 while records go to the spool.", registry=REGISTRY)


def serve(host: str, port: int, delivery: Delivery) -> None:
    """Answers GET /metrics in a thread. OSError if the port is taken."""
    _SPOOLED.set_function(lambda: delivery.spool.size)
    _AWAY.set_function(lambda: float(delivery.away))
    start_http_server(port, host, registry=REGISTRY)
