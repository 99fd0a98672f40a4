"""The interpreter ends while a client is at work: ending.py WAY EDGE CA.pem, which prints `ends` last.

`binding`: a thread of the client's is in the app, and sleeps there. `waiting`: a task waits for a push, and nobody has
cancelled it or shut the client down.
"""

import asyncio
import pathlib
import sys
import threading
import time

import towline

WAY, EDGE = sys.argv[1:3]
CA = pathlib.Path(sys.argv[3]).read_bytes()
binds = threading.Event()


class Sleeper(towline.SocketBinder):
    def bind(self, fd, peer, network):
        binds.set()
        time.sleep(0.3)


async def waits(client):
    push = asyncio.ensure_future(client.pushes().__anext__())
    await client.call(towline.Request(path="/hello", method="GET"))
    return push


options = towline.ClientOptions(endpoints=[EDGE], roots_pem=CA)
if WAY == "binding":
    client = towline.Client(options, socket_binder=Sleeper())
    binds.wait()
else:
    client = towline.Client(options)
    loop = asyncio.new_event_loop()
    push = loop.run_until_complete(waits(client))
print("ends", flush=True)
