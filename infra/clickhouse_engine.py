"""The process of the embedded ClickHouse server, as a program: its argument is the directory of the data (clickhouse_server.py).

On its own, for it needs nothing of ours, and every import would delay the server.
"""

import sys

from chdb import _chdb

LISTEN = """
SYSTEM START LISTEN TCP;
SYSTEM START LISTEN HTTP;
SELECT sleepEachRow(3) FROM system.numbers SETTINGS function_sleep_max_microseconds_per_block = 0, max_block_size = 1 FORMAT Null
"""

if __name__ == "__main__":
    _chdb.query(LISTEN, path=sys.argv[1])  # type: ignore[attr-defined]  # chdb claims types; the engine has none
