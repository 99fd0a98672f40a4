"""The Towline client for asyncio.

    import towline

    async with towline.Client(towline.ClientOptions(endpoints=["edge.example:443"], roots_pem=pem)) as client:
        reply = await client.unary(towline.Request(path="/shop.Orders/Get", message=order))
        async for push in client.pushes():
            print(push.topic, push.payload)

`towline_ffi` beside this file is made by uniffi. Here it gets what asyncio's users expect: listeners and streams are
asynchronous iterators, and a client is an asynchronous context manager. A task that is cancelled cancels its call.
"""

import atexit

from . import towline_ffi
from .towline_ffi import (
    BinderError,
    Cancellation,
    Client,
    ClientOptions,
    DamagedRecord,
    DictionaryFetch,
    DurableOutcome,
    EndpointList,
    ErrorKind,
    Execution,
    GrpcStatus,
    Header,
    InternalError,
    LineState,
    LogLevel,
    LogListener,
    LogRecord,
    MessageBytes,
    MessageStream,
    NameListener,
    NameQuestion,
    Network,
    NetworkKind,
    OutcomeListener,
    Push,
    PushListener,
    Quality,
    QualityListener,
    Request,
    Response,
    ShortCalls,
    SocketBinder,
    StateListener,
    StreamEnd,
    StreamHead,
    TicketCounts,
    Timeline,
    TowlineError,
    Transport,
    Transports,
    logs,
)

__all__ = [name for name in dir() if not name.startswith("_") and name not in ("atexit", "towline_ffi")]

# A thread of the library's that came into Python while the interpreter ends would be ended in the middle of what it does,
# and the process with it.
atexit.register(towline_ffi.end_engine)


def _itself(self):
    return self


def _iterates(kind, step):
    """Makes an asynchronous iterator of a class whose method `step` answers None at the end."""

    async def following(self):
        item = await getattr(self, step)()
        if item is None:
            raise StopAsyncIteration
        return item

    kind.__aiter__ = _itself
    kind.__anext__ = following


for _kind in (PushListener, StateListener, QualityListener, OutcomeListener, NameListener, LogListener):
    _iterates(_kind, "next")
_iterates(MessageStream, "message")


async def _enter(self):
    return self


async def _leave(self, *_):
    await self.shutdown()


Client.__aenter__ = _enter
Client.__aexit__ = _leave

# Whoever prints a list of them, or one within another, sees what is in it: uniffi writes `__str__` alone.
for _kind in (DamagedRecord, EndpointList, GrpcStatus, Header, LogRecord, MessageBytes, Network, Push, Quality, Request,
              Response, StreamEnd, StreamHead, TicketCounts, Timeline):
    _kind.__repr__ = _kind.__str__

# The body of an HTTP answer in one piece.
Response.body = property(lambda self: b"".join(self.messages))
