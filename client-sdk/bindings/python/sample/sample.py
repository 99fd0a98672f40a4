"""A first call, a push, and what Linux says of the network: sample.py HOST:PORT CA.pem, with `towline dev` running."""

import asyncio
import ipaddress
import os
import pathlib
import socket
import sys

import towline


class NetworkWatch:
    """Tells the client of the default route's interface, as `ip monitor route` has it.

    `routes` are the interfaces that have a default route, the preferred first. While the one in use still has its route,
    another that is preferred joins it, and calls go on until the client has found it to be good.
    """

    def __init__(self, client):
        self._client = client
        self._in_use = None

    def routes_are(self, routes):
        preferred = routes[0] if routes else None
        if preferred == self._in_use:
            return
        joins = self._in_use in routes
        self._in_use = preferred
        tell = self._client.network_joined if joins else self._client.network_changed
        tell(self._network(preferred))

    @staticmethod
    def _network(interface):
        if interface is None:
            return towline.Network(kind=towline.NetworkKind.OFFLINE)
        is_wifi = pathlib.Path(f"/sys/class/net/{interface}/wireless").exists()
        kind = towline.NetworkKind.WIFI if is_wifi else towline.NetworkKind.ETHERNET
        return towline.Network(kind=kind, key=interface)

    async def run(self):
        monitor = await asyncio.create_subprocess_exec("ip", "monitor", "route", stdout=asyncio.subprocess.PIPE)
        try:
            self.routes_are(await default_routes())
            while await monitor.stdout.readline():
                self.routes_are(await default_routes())
        finally:
            monitor.terminate()
            await monitor.wait()


class Binder(towline.SocketBinder):
    """Binds each socket to the interface of the network that it is for: while calls go on over the one in use, the one that
    joined is tried."""

    def bind(self, fd, peer, network):
        # Before there was any route, and where the gateway is on this machine, the system's choice will do.
        if not network.key or ipaddress.ip_address(peer).is_loopback:
            return
        # The socket is the client's, and Python closes what it wraps: that is a copy.
        with socket.socket(fileno=os.dup(fd)) as it:
            try:
                it.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, network.key.encode())
            except OSError as error:
                raise towline.BinderError.Refused(f"{network.key}: {error}") from error


async def default_routes():
    """Interfaces with a default route, that of the smallest metric first."""
    asked = await asyncio.create_subprocess_exec(
        "ip", "-4", "route", "show", "default", stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asked.communicate()
    routes = [line.split() for line in said.decode().splitlines() if " dev " in line]

    def after(route, word, otherwise):
        return route[route.index(word) + 1] if word in route else otherwise

    routes.sort(key=lambda route: int(after(route, "metric", "0")))
    return [after(route, "dev", "") for route in routes]


async def main(endpoint, ca):
    options = towline.ClientOptions(endpoints=[endpoint], roots_pem=pathlib.Path(ca).read_bytes())
    async with towline.Client(options, socket_binder=Binder()) as client:
        watching = asyncio.ensure_future(NetworkWatch(client).run())
        answer = await client.call(towline.Request(path="/hello", method="GET"))
        print("call:", answer.status, answer.body.decode())
        await client.subscribe("greetings/#")
        await client.publish("greetings/python", b"hi")
        async for push in client.pushes():
            print("push:", push.topic, push.payload.decode())
            break
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
