"""The world that the pipeline runs in on one machine: embedded Kafka and ClickHouse, their schema, the demo.

`servers.py` starts and stops both; `kafka_server.py` and `clickhouse_server.py` say how each is configured and run.
"""
