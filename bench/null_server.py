"""A server that does nothing: ``python -m bench.null_server PORT`` reads one HTTP answer and gives it to every request.

It has what glowplug's edge is made of, aiohttp on uvloop, so that what is left of a difference is glowplug's own.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web
from multidict import CIMultiDict


async def main(port: int, answer: bytes) -> None:
    """Serve until the process is ended."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
    headers = CIMultiDict((name, value) for name, _, value in lines if name.lower() != "content-length")

    async def handle(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=body, headers=headers)

    server = await asyncio.get_running_loop().create_server(web.Server(handle, access_log=None), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.stdin.buffer.read()))
