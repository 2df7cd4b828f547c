"""How long a part may take to end once it was asked to, whatever hangs."""

import logging
import os
import threading

from pipeline.logs import logger

DRAIN_S = 8.0
"""How long a stop may take; what is unfinished then is not acknowledged, and done by the next process. A supervisor kills after 10 s."""

log = logger("worker")


def leave_at_last(code: int) -> None:
    """Ends the process with this exit code after `DRAIN_S`, if it still lives then."""

    def leave() -> None:
        log.warning("stopped with a batch unfinished: it will be done again")
        logging.shutdown()
        os._exit(code)

    timer = threading.Timer(DRAIN_S, leave)
    timer.daemon = True
    timer.start()
