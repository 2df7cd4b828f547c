"""What the collector is measured against, each on uvicorn as it is, on the collector's port: `python -m bench.rivals {bare,produce}`.

`bare` answers 204 to every POST, unread. `produce` hands the body as it came to Kafka and answers 204 when all replicas have it,
with the collector's options of the producer: no checks, no event, no spool.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.adapters import kafka
from pipeline.adapters.contracts import home_topic
from pipeline.edge.delivery import LINGER_MS
from pipeline.settings import Settings, load

PATH = "/e/{portal:int}"
_LISTEN_EVERY_S = 0.002


def bare(_: Settings) -> Starlette:
    async def answer(_: Request) -> Response:
        return Response(status_code=204)

    return Starlette(routes=[Route(PATH, answer, methods=["POST"])])


def produce(settings: Settings) -> Starlette:
    producer = kafka.producer(settings, **{"linger.ms": LINGER_MS})
    topic = kafka.topic_name(settings, home_topic("page_view"))

    async def answer(request: Request) -> Response:
        there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        producer.produce(topic, await request.body(), on_delivery=lambda error, _: _settle(there, error))
        await there
        return Response(status_code=204)

    @asynccontextmanager
    async def listening(_: Starlette) -> AsyncIterator[None]:
        async def listen() -> None:
            while True:
                producer.poll(0)
                await asyncio.sleep(_LISTEN_EVERY_S)

        task = asyncio.create_task(listen())
        yield
        task.cancel()

    return Starlette(routes=[Route(PATH, answer, methods=["POST"])], lifespan=listening)


def _settle(there: asyncio.Future[None], error: Any) -> None:
    if error is None:
        there.set_result(None)
    else:
        there.set_exception(RuntimeError(error.str()))


RIVALS = {"bare": bare, "produce": produce}

if __name__ == "__main__":
    own = load()
    uvicorn.run(RIVALS[sys.argv[1]](own), port=own.edge.port, log_level="warning", access_log=False, server_header=False)
