"""A load generator: keep-alive connections, one request after the other on each, in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path


async def _ask(port: int, request: bytes, count: int) -> list[float]:
    """Send a request again and again over one connection; returns the seconds each took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status, _, headers = head.partition(b"\r\n")
        length = headers.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        body = await reader.readexactly(int(length))
        taken.append(time.perf_counter() - began)
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode()}: {body.decode()}")
    writer.close()
    await writer.wait_closed()
    return taken


async def _load(port: int, request: bytes, count: int, connections: int) -> dict[str, object]:
    began = time.perf_counter()
    shares = [count // connections + (at < count % connections) for at in range(connections)]
    taken = await asyncio.gather(*(_ask(port, request, share) for share in shares))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "latencies": sorted(latency for share in taken for latency in share)}


def main() -> None:
    """Put load on a server and print how long all and each took, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("body", type=Path, help="a file with the request's JSON body")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    options = parser.parse_args()
    body = options.body.read_bytes()
    head = (
        "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    found = asyncio.run(_load(options.port, head.encode() + body, options.requests, options.connections))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
