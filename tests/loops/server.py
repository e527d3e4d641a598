"""An asyncio server whose handlers block the loop in the ways that people do by accident."""

import asyncio
import os
import socket
import sys
import time
import urllib.request


def deaf():
    """A port that accepts and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    return server, server.getsockname()[1]


async def handle(reader, writer):
    word = (await reader.readline()).decode().strip()
    if word == "sleep":
        time.sleep(1000)
    elif word == "read":  # A driver with a timeout: it polls its own socket again and again.
        server, port = deaf()
        client = socket.create_connection(("127.0.0.1", port))
        client.settimeout(0.2)
        while True:
            try:
                client.recv(1)
            except TimeoutError:
                pass
    elif word == "request":
        server, port = deaf()
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1000)
    elif word == "wait":  # A wait in select, as by an older driver.
        import select

        while True:
            select.select([], [], [], 0.1)
    writer.write(b"well\n")
    await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
