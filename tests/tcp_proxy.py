"""A TCP proxy on loopback whose target can be changed while connections stay open, with TLS on its own side if wanted.

It stands in for the address of a managed service: TLS that the embedded servers do not speak, and the one name behind
which a failover puts another server. It can also lose an answer on its way.
"""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CLOSE_BY_RESET = struct.pack("ii", 1, 0)  #: on, 0 s: unsent data is thrown away


class TcpProxy:
    """Listens on `port`; new connections go to `target`, the old ones stay where they are."""

    def __init__(self, target: int, tls: ssl.SSLContext | None) -> None:
        self.target = target
        self.port = 0
        self.answers_to_cut = 0  #: connections that are to be closed instead of passing on their next answer
        self.accepted = 0  #: connections whose handshake, if any, succeeded
        self.received = bytearray()  #: what clients sent, decrypted
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self) -> None:
        """Close the open connections; new ones are accepted."""
        for writer in list(self._writers):
            self._loop.call_soon_threadsafe(writer.transport.abort)

    def reset(self) -> None:
        """Close them so that both sides get a reset."""
        for writer in list(self._writers):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_BY_RESET)
        self.cut()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.set_exception_handler(lambda *_: None)  # refused handshakes are what tests ask for
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            to_server, from_client = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, from_client}
        try:
            await asyncio.gather(self._copy(reader, from_client, True), self._copy(to_server, writer, False))
        finally:
            self._writers -= {writer, from_client}

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if keep:
                    self.received += data
                elif self.answers_to_cut:
                    self.answers_to_cut -= 1
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def tcp_proxy(target: int, tls: ssl.SSLContext | None = None) -> Iterator[TcpProxy]:
    """Run a proxy to port `target` of loopback while the block runs."""
    proxy = TcpProxy(target, tls)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
