"""TCP proxies with faults on request: cuts, resets, latency, black holes, half-open sockets, HTTP refusals, triggers.

One thread runs the event loop of all proxies of a `Network`. Other threads switch faults on and off by attributes and
methods of `FaultProxy`, which are safe to call from any thread. The verbs are those of toxiproxy (Shopify).
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 1 << 16


@dataclass
class Trigger:
    """Calls `act` once, when a chunk sent by the client makes `matches` true.

    With `when` "before" the chunk is not forwarded; with "after" it is, and the server's reply is not handed back.
    """

    matches: Callable[[bytes], bool]
    act: Callable[[], None]
    when: Literal["before", "after"] = "after"
    fired: bool = False


class Connection:
    """One client connection and its connection to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.awaited: Trigger | None = None  #: fires at the server's next chunk
        self.stranded = False  #: open, and nothing passes any more

    def reset(self) -> None:
        """Close both sides with RST."""
        for writer in self.writers:
            reset(writer)


class FaultProxy:
    """Listens on `port` of loopback and forwards to `upstream` (a port of loopback)."""

    def __init__(self, network: "Network", name: str, upstream: int) -> None:
        self.name = name
        self.upstream = upstream  #: new connections go there
        self.port = 0
        self.refusing = False  #: new connections are reset at once
        self.latency_s = 0.0  #: added to each chunk in each direction
        self.bytes_per_s = 0.0  #: 0: unlimited
        self.answer = b""  #: an HTTP response that every request on a new connection gets instead of the server's
        self.counts: Counter[str] = Counter()  #: connections, refused, answered, reset, held, delayed
        self.trigger: Trigger | None = None
        self._network = network
        self._connections: set[Connection] = set()
        self._passing = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._passing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Listen no more, and let go of every connection. On the loop."""
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.reset()

    def cut(self) -> None:
        """Reset every connection and refuse new ones until `heal`."""
        self.refusing = True
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones pass."""
        self._network.call(self._reset())

    def hold(self) -> None:
        """Let nothing through until `heal`; connections stay open (a black hole)."""
        self._network.call(self._hold())

    def strand(self) -> None:
        """Let nothing through on the present connections, ever; new ones pass (half-open sockets)."""
        self._network.call(self._strand())

    def refuse_http(self, status: str, body: str) -> None:
        """Answer every HTTP request with `status` ("503 Slow Down") until `heal`."""
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/xml\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.answer = f"{head}\r\n\r\n{body}".encode()
        self.reset()

    def heal(self) -> None:
        """Forward again as if nothing had been; stranded connections stay stranded."""
        self.refusing, self.latency_s, self.bytes_per_s, self.answer, self.trigger = False, 0.0, 0.0, b"", None
        self._network.call(self._release())

    @property
    def connections(self) -> int:
        """Connections open through this proxy, without stranded ones."""
        return sum(not connection.stranded for connection in set(self._connections))

    async def _reset(self) -> None:
        for connection in list(self._connections):
            self.counts["reset"] += 1
            connection.reset()

    async def _hold(self) -> None:
        self._passing.clear()

    async def _release(self) -> None:
        self._passing.set()

    async def _strand(self) -> None:
        for connection in self._connections:
            connection.stranded = True
            self.counts["held"] += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        if self.refusing:
            self.counts["refused"] += 1
            reset(writer)
            return
        try:
            if self.answer:
                await self._answer(reader, writer)
                return
            there, to = await asyncio.open_connection("127.0.0.1", self.upstream)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            reset(writer)
            return
        connection = Connection(writer, to)
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(connection, reader, to, asked=True)),
            asyncio.create_task(self._pump(connection, there, writer, asked=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the network closes; asyncio would log the cancelled task as a failure
            return
        finally:
            self._connections.discard(connection)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in (writer, to):
                one.close()

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asked: bool
    ) -> None:
        while data := await _read(reader):
            await self._delay(len(data))
            while connection.stranded:
                await asyncio.sleep(3600)
            if self._triggered(connection, data) if asked else self._replied(connection):
                connection.reset()
                return
            try:
                writer.write(data)
                await writer.drain()
            except ConnectionError:
                return

    async def _delay(self, length: int) -> None:
        seconds = self.latency_s + (length / self.bytes_per_s if self.bytes_per_s else 0)
        if seconds:
            self.counts["delayed"] += 1
            await asyncio.sleep(seconds)
        if not self._passing.is_set():
            self.counts["held"] += 1
            await self._passing.wait()

    def _triggered(self, connection: Connection, data: bytes) -> bool:
        trigger = self.trigger
        if trigger is None or trigger.fired or not trigger.matches(data):
            return False
        if trigger.when == "after":
            connection.awaited = trigger
            return False
        return self._fire(trigger)

    def _replied(self, connection: Connection) -> bool:
        trigger = connection.awaited
        return trigger is not None and not trigger.fired and self._fire(trigger)

    def _fire(self, trigger: Trigger) -> bool:
        trigger.fired = True
        self.counts["triggered"] += 1
        trigger.act()
        return True

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if lengths:
            await reader.readexactly(int(lengths[0].partition(b":")[2]))
        self.counts["answered"] += 1
        writer.write(self.answer)
        await writer.drain()
        writer.close()


class Network:
    """The thread of all proxies. Use it as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._proxies: list[FaultProxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def proxy(self, name: str, upstream: int) -> FaultProxy:
        """Return a new proxy in front of loopback port `upstream`."""
        proxy = FaultProxy(self, name, upstream)
        self.call(proxy.start())
        self._proxies.append(proxy)
        return proxy

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        for proxy in self._proxies:
            proxy.stop()
        await asyncio.sleep(0)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST, as a dying host does."""
    plug = writer.get_extra_info("socket")
    if plug is not None and plug.fileno() >= 0:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(CHUNK_BYTES)
    except ConnectionError:
        return b""
