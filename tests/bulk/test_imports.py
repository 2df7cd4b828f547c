"""A rebuild is memory for events, not for what it does not use."""

import subprocess
import sys


def test_a_rebuild_does_without_faust() -> None:
    """Nor what Faust needs: each of its processes would have it in memory."""
    unwanted = "{'faust', 'mode', 'aiokafka', 'aiohttp'}"
    program = f"import sys, pipeline.bulk.rebuild; sys.exit(str({unwanted} & set(sys.modules)) if {unwanted} & set(sys.modules) else 0)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
