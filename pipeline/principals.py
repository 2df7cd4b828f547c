"""Who comes to Kafka: each part under a name of its own, with the rights that it needs (adapters/rights.py) and no others.

A principal is one of these names; the user that it logs in as is `sasl.username` of its options in `kafka.principals`. Whoever has none
there comes with `kafka.options`, as does an administrator: the commands that make topics and grant rights, and `run` when it starts.
"""

PRODUCER = "producer"
PRINCIPALS = ("edge", "publish", "sessionize", "identify", "record", "dead-letters", "status", PRODUCER)
"""The parts of topics/*.yaml, two commands that read, and whoever else writes raw events: a shop's own code, say."""
