"""What an app does with the Python binding: app.py EDGE PLAIN CA.pem. Prints `ok` and the name of each thing."""

import asyncio
import datetime
import gc
import os
import pathlib
import socket
import sys
import tempfile
import weakref

import towline
from towline import Client, ClientOptions, Execution, ErrorKind, Request, TowlineError, towline_ffi

EDGE, PLAIN = sys.argv[1:3]
CA = pathlib.Path(sys.argv[3]).read_bytes()
UNARY, BIDI = "/towline.demo.v1.Echo/Unary", "/towline.demo.v1.Echo/BidiEcho"


def text(words):
    """EchoRequest { text: words }"""
    return bytes([0x0A, len(words)]) + words.encode()


SLOW = bytes([0x18, 0xE0, 0xD4, 3])  # EchoRequest { delay_ms: 60000 }
FAIL = bytes([0x28, 5])  # EchoRequest { fail_with_code: 5 }


def client(**more):
    return Client(ClientOptions(endpoints=[EDGE], roots_pem=CA, **more))


def seconds(count):
    return datetime.timedelta(seconds=count)


async def calls():
    async with client() as it:
        reply = await it.unary(Request(path=UNARY, message=text("hello"), priority=0, idempotent=True))
        assert reply.startswith(text("hello")), reply
        answer = await it.call(Request(path="/hello", method="GET", deadline=seconds(10), needs_encryption=True))
        assert answer.status == 200 and answer.body, answer
        assert answer.grpc_status is None
        assert "content-type" in repr(answer.headers) and "attempts=" in repr([answer.timeline]), answer
        assert answer.timeline.attempts >= 1 and answer.timeline.elapsed > seconds(0)
        assert answer.timeline.response.plain == len(answer.body), answer.timeline
        many = await asyncio.gather(*(it.unary(Request(path=UNARY, message=text(str(n)))) for n in range(50)))
        assert all(reply.startswith(text(str(n))) for n, reply in enumerate(many))


async def streams():
    async with client() as it:
        stream = it.stream(Request(path=BIDI))
        for word in ("one", "two", "three"):
            await stream.send(text(word))
            assert (await stream.message()).startswith(text(word))
        await stream.finish()
        assert (await stream.head()).status == 200
        assert [message async for message in stream] == []
        assert (await stream.end()).grpc_status.code == 0
        await refused(stream.send(b""), TowlineError.Argument, argument="stream")


async def one_direction_waits_for_the_other():
    async with client() as it:
        stream = it.stream(Request(path=BIDI))
        waiting = asyncio.ensure_future(stream.message())
        await asyncio.sleep(0)
        await stream.send(text("late"))
        assert (await waiting).startswith(text("late"))
        # A wait that is given up takes no message with it.
        try:
            await asyncio.wait_for(stream.message(), 0.01)
            raise AssertionError("a message that nobody sent")
        except asyncio.TimeoutError:
            pass
        await stream.send(text("kept"))
        assert (await stream.message()).startswith(text("kept"))
        stream.cancel()
        await refused(stream.message(), TowlineError.Rpc, kind=ErrorKind.CANCELLED)


async def pushes():
    async with client(client_id="python") as it:
        assert it.client_id() == "python"
        await it.subscribe("news/#")
        await it.publish("news/1", b"first")
        it.publish_and_forget("news/2", b"second")
        left = it.pushes()
        push = await left.next()
        got = {push.topic: push.payload}
        left.done()
        del left
        left = it.pushes()
        push = await left.next()
        # It was not handled: the next listener gets it.
        del left
        async for again in it.pushes():
            assert again == push, (again, push)
            got[again.topic] = again.payload
            break
        assert got == {"news/1": b"first", "news/2": b"second"}, got
        await it.unsubscribe("news/#")


async def durable():
    # Small files may be on their way to the disk when a client is closed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        def run():
            return client(identity_file=f"{folder}/identity")

        async with run() as it:
            await it.submit(Request(path=UNARY, message=text("pay")), "order-1", tag=b"cart")
            await it.submit(Request(path=UNARY, message=FAIL), "order-2")
            again = it.submit(Request(path=UNARY, message=text("pay")), "order-1")
            await refused(again, TowlineError.Rpc, kind=ErrorKind.MALFORMED, execution=Execution.NOT_RUN)
        # The next run of the app has what became of them.
        async with run() as it:
            got = {}
            async for outcome in it.outcomes():
                got[outcome.key()] = outcome
                if len(got) == 2:
                    break
            assert got["order-1"].tag() == b"cart" and got["order-1"].response().status == 200
            assert got["order-1"].message().startswith(text("pay")), got
            assert got["order-2"].response().grpc_status.code == 5
            try:
                raise AssertionError(got["order-2"].message())
            except TowlineError.Grpc as error:
                assert error.code == 5
            for key in got:
                await it.acknowledge(key)
                await refused(it.acknowledge(key), TowlineError.Argument, argument="key")
        # And the one behind it nothing of what was acknowledged.
        async with run() as it:
            await it.submit(Request(path=UNARY, message=text("on")), "order-1")
            outcome = await it.outcomes().next()
            assert (outcome.key(), outcome.tag()) == ("order-1", b""), outcome
    async with client() as it:
        await refused(it.acknowledge("order-1"), TowlineError.Config, option="identity_file")
        await refused(it.submit(Request(path=UNARY), "order-1"), TowlineError.Rpc, execution=Execution.NOT_RUN)
    await refused(it.submit(Request(path=UNARY), "order-1"), TowlineError.Closed)


async def damaged():
    # Small files may be on their way to the disk when a client is closed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        def run():
            return client(identity_file=f"{folder}/identity")

        async with run() as it:
            assert it.damaged_records() == []
            await it.submit(Request(path=UNARY, message=text("pay")), "order-1")
            await it.outcomes().next()
        for record in pathlib.Path(f"{folder}/identity.durable").iterdir():
            record.write_bytes(record.read_bytes()[:-1])
        async with run() as it:
            [record] = it.damaged_records()
            assert isinstance(record, towline.DamagedRecord) and record.reason, record
            await refused(it.discard_damaged("another"), TowlineError.Argument, argument="name")
            await it.discard_damaged(record.name)
            assert it.damaged_records() == []


async def own_resolver():
    endpoint = "localhost:" + EDGE.rpartition(":")[2]
    # Nothing but the app says where the gateway is: what it says is what the line comes to.
    async with Client(ClientOptions(endpoints=[endpoint], roots_pem=CA, own_resolver=True)) as it:
        names, states = it.names(), it.states()

        async def refuse():
            async for question in names:
                question.fail("no resolver today")

        refusing = asyncio.ensure_future(refuse())
        while not ((state := await states.next()).is_OFFLINE() and "no resolver today" in state.reason):
            assert not state.is_ONLINE(), state
        refusing.cancel()
        question = await names.next()
        assert question.host() == "localhost", question.host()
        assert question.network() == towline.Network(kind=towline.NetworkKind.UNKNOWN), question.network()
        for wrong, argument in ((["localhost"], "addresses[0]"), ([], "addresses")):
            try:
                question.answer(wrong)
                raise AssertionError("no address")
            except TowlineError.Argument as error:
                assert error.argument == argument, error
        question.answer(["127.0.0.1"])
        assert (await it.unary(Request(path=UNARY, message=text("found")))).startswith(text("found"))
        await it.shutdown()
        assert await names.next() is None
    async with client() as it:
        try:
            it.names()
            raise AssertionError("names that nobody asks for")
        except TowlineError.Config as error:
            assert error.option == "own_resolver", error


async def sockets():
    class Binder(towline.SocketBinder):
        def __init__(self):
            self.bound, self.gone, self.broken = [], set(), set()

        def bind(self, fd, peer, network):
            # A descriptor of its own for the time of the call: Python closes what it wraps.
            with socket.socket(fileno=os.dup(fd)) as it:
                try:
                    it.getpeername()
                    raise AssertionError("connected already")
                except OSError:
                    pass
                kind = it.type
            self.bound.append((kind, peer, network.key))
            if network.key in self.gone:
                raise towline.BinderError.Refused(f"{network.key} is gone")
            if network.key in self.broken:
                raise KeyError(network.key)

    def network(key):
        return towline.Network(kind=towline.NetworkKind.WIFI, key=key)

    for transports, kind in ((towline.Transports.TCP, socket.SOCK_STREAM), (towline.Transports.QUIC, socket.SOCK_DGRAM)):
        binder = Binder()
        options = ClientOptions(endpoints=[EDGE], roots_pem=CA, transports=transports)
        async with Client(options, socket_binder=binder) as it:
            it.network_changed(network("home"))
            await it.unary(Request(path=UNARY, message=text("bound")))
            # A socket that was wanted before the app told of a network may be bound beside.
            assert (kind, "127.0.0.1", "home") in binder.bound, binder.bound
            binder.bound.clear()
            it.network_joined(network("street"))
            while len(binder.bound) < 2:
                await it.unary(Request(path=UNARY, message=text("on")))
            assert all(bound == (kind, "127.0.0.1", "street") for bound in binder.bound), binder.bound
            # What is refused, and what the app does wrong, fails attempts and nothing else.
            binder.gone.add("cellar")
            binder.broken.add("attic")
            states = it.states()
            for key, reason in (("cellar", "cellar is gone"), ("attic", "attic")):
                it.network_changed(network(key))
                while not ((state := await states.next()).is_OFFLINE() and reason in state.reason):
                    pass
            it.network_changed(network("home"))
            await it.unary(Request(path=UNARY, message=text("back")))
        weakly = weakref.ref(binder)
        del binder, it
        while weakly() is not None:
            gc.collect()
            await asyncio.sleep(0.01)


async def tickets():
    # Small files may be on their way to the disk when a client is closed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        def run():
            return client(identity_file=f"{folder}/identity")

        async with run() as it:
            await it.unary(Request(path=UNARY, message=text("first")))
            while it.ticket_counts().kept == 0:
                await asyncio.sleep(0.01)
            assert it.ticket_counts().restored == 0
        async with run() as it:
            states = it.states()
            while not (state := await states.next()).is_ONLINE():
                pass
            counts = it.ticket_counts()
            assert counts.restored > 0 and counts.damaged == 0, counts
            assert isinstance(state.early_data, bool), state


async def what_the_operator_says():
    # Thirty-two bytes of zero: what a key has to look like.
    key = "ed25519/" + "A" * 43 + "="
    async with client(endpoint_list_keys=[key], endpoint_list_names=["*.edge.example"], app_name="com.example.shop",
                      app_version="5.12.3", app_region="eu", pushes_max=8, strategies=["hedge.enabled=false"]) as it:
        await it.unary(Request(path=UNARY, message=text("up")))
        assert it.endpoint_list() is None
        assert it.policy_revision() >= 0
        it.set_metered(True)
        it.set_metered(None)
        it.reconnect()
        await it.unary(Request(path=UNARY, message=text("again")))


async def states_and_signals():
    it = client()
    seen = []

    async def watch():
        async for state in it.states():
            seen.append(state)

    watching = asyncio.ensure_future(watch())
    await it.unary(Request(path=UNARY, message=text("up")))
    quality = await it.qualities().next()
    assert isinstance(quality, towline.Quality)
    it.background()
    it.low_power(True)
    it.doze(True)
    it.doze(False)
    it.foreground()
    it.network_changed(towline.Network(kind=towline.NetworkKind.WIFI, key="home", metered=False))
    await it.unary(Request(path=UNARY, message=text("moved")))
    it.network_joined(towline.Network(kind=towline.NetworkKind.CELLULAR, metered=True))
    await it.unary(Request(path=UNARY, message=text("joined")))
    await it.shutdown()
    await watching
    assert any(state.is_ONLINE() for state in seen), seen
    assert seen[-1].is_CLOSED(), seen
    await it.shutdown()


async def logs():
    listener = towline.logs(towline.LogLevel.DEBUG)
    it = Client(ClientOptions(endpoints=["127.0.0.1:1"], plaintext=True))
    record = await listener.next()
    assert record.text and record.target.startswith("towline"), record
    await it.shutdown()
    waiting = asyncio.ensure_future(drain(listener))
    listener.stop()
    await waiting


async def drain(listener):
    async for _ in listener:
        pass


async def misuse():
    def check(option, **more):
        try:
            Client(ClientOptions(**{"endpoints": [EDGE], "roots_pem": CA, **more}))
            raise AssertionError(option)
        except TowlineError.Config as error:
            assert error.option == option, error
            assert error.reason

    check("roots_pem", roots_pem=None)
    check("roots_pem", roots_pem=b"no PEM")
    check("endpoints", endpoints=[])
    check("endpoints[0]", endpoints=["https://edge.example/"])
    check("bundled_addresses[0]", bundled_addresses=["edge.example"])
    check("bundled_addresses", bundled_addresses=["edge.example=192.0.2.7"])
    check("strategies[0]", strategies=["hedge.enabled=maybe"])
    check("strategies", strategies=["quality.good_max=50s"])
    check("pins[0]", pins=["sha256/nonsense"])
    check("endpoint_list_keys[0]", endpoint_list_keys=["ed25519/nonsense"])
    check("endpoint_list_names", endpoint_list_names=["*"])
    check("app_region", app_region="x" * 65)
    check("calls_max", calls_max=0)
    check("deadline", deadline=seconds(0))
    check("client_id", client_id="with space")
    try:
        client(identity_file="/no/such/folder/identity")
        raise AssertionError("an identity nowhere")
    except TowlineError.Start as error:
        assert "/no/such/folder" in error.reason

    async with client() as it:
        await refused(it.call(Request(path="edge.example/x")), TowlineError.Argument, argument="path")
        await refused(it.call(Request(path="/x", method="G E T")), TowlineError.Argument, argument="method")
        bad = [towline.Header(name="a b", value="")]
        await refused(it.call(Request(path="/x", headers=bad)), TowlineError.Argument, argument="headers[0].name")
        await refused(it.unary(Request(path=UNARY, message=FAIL)), TowlineError.Grpc, code=5)
        over = it.unary(Request(path=UNARY, message=SLOW, deadline=datetime.timedelta(milliseconds=50)))
        failed = await refused(over, TowlineError.Rpc, kind=ErrorKind.DEADLINE_EXCEEDED)
        assert failed.timeline.elapsed >= datetime.timedelta(milliseconds=50)
    await refused(it.call(Request(path="/hello", method="GET")), TowlineError.Closed)
    for method in (it.pushes, it.foreground, lambda: it.stream(Request(path=BIDI))):
        try:
            method()
            raise AssertionError("a closed client did something")
        except TowlineError.Closed:
            pass

    plain = Client(ClientOptions(endpoints=[PLAIN], plaintext=True))
    secret = plain.call(Request(path="/hello", method="GET", needs_encryption=True))
    await refused(secret, TowlineError.Rpc, kind=ErrorKind.ENCRYPTION_REQUIRED, execution=Execution.NOT_RUN)
    await plain.shutdown()


async def cancellation():
    async with client() as it:
        await it.unary(Request(path=UNARY, message=text("up")))
        cancellation = towline.Cancellation()
        slow = asyncio.ensure_future(it.unary(Request(path=UNARY, message=SLOW), cancellation=cancellation))
        await asyncio.sleep(0)
        cancellation.cancel()
        await refused(slow, TowlineError.Rpc, kind=ErrorKind.CANCELLED, is_retryable=False)
        slow = asyncio.ensure_future(it.unary(Request(path=UNARY, message=SLOW)))
        await asyncio.sleep(0)
        slow.cancel()
        try:
            await slow
            raise AssertionError("a cancelled call was answered")
        except asyncio.CancelledError:
            pass
        left = it.unary(Request(path=UNARY, message=SLOW))
        waiting = asyncio.ensure_future(left)
        await asyncio.sleep(0)
        await it.shutdown()
        await refused(waiting, TowlineError.Rpc)


async def panics():
    try:
        towline_ffi.panic_probe()
        raise AssertionError("no panic")
    except towline.InternalError as error:
        assert "panic probe" in str(error), error
    await refused(towline_ffi.panic_probe_later(), TowlineError.Internal)
    # The engine goes on.
    async with client() as it:
        assert (await it.unary(Request(path=UNARY, message=text("still")))).startswith(text("still"))


async def release():
    it = client()
    states = it.states()
    await it.unary(Request(path=UNARY, message=text("up")))
    del it
    gc.collect()
    async for state in states:
        if state.is_CLOSED():
            return
    raise AssertionError("a released client stays open")


async def refused(work, error, **fields):
    try:
        answer = await work
    except error as raised:
        for name, value in fields.items():
            assert getattr(raised, name) == value, (name, raised)
        return raised
    raise AssertionError(f"{error} was expected, not {answer}")


async def main():
    for part in (calls, streams, one_direction_waits_for_the_other, pushes, durable, damaged, own_resolver, sockets, tickets,
                 what_the_operator_says, states_and_signals, logs, misuse, cancellation, panics, release):
        await asyncio.wait_for(part(), 60)
        print("ok", part.__name__)


asyncio.run(main())
