"""TCP wires that can be bad: delay, reset, half-open, lost answers. One thread for all of them."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any

from tests.parts import free_port

CHUNK = 64 * 1024
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Wire:
    """From a port of its own to one upstream. Its faults are attributes, and hold for what passes from then on."""

    def __init__(self, name: str, upstream: int, dice: random.Random) -> None:
        self.name, self.port, self.upstream = name, free_port(), upstream
        self.delay = 0.0
        """Seconds that every chunk takes longer, either way."""
        self.refuses = False
        """New connections are reset."""
        self.lost_answers = 0.0
        """The share of upstream's chunks at which the connection breaks instead: done, and nobody is told."""
        self._passes = asyncio.Event()
        self._passes.set()
        self._dice = dice
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self) -> None:
        """Accepts until cancelled."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        async with server:
            await server.serve_forever()

    async def reset(self) -> None:
        """Breaks every connection that stands."""
        for writer in list(self._open):
            _reset(writer)

    async def set_silent(self, silent: bool) -> None:
        """Half-open: connections stand and nothing passes. What stood then is dead when it ends, as after a reboot."""
        if silent:
            self._passes.clear()
        elif not self._passes.is_set():
            await self.reset()
            self._passes.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        up: asyncio.StreamWriter | None = None
        try:
            if self.refuses:
                return
            await self._passes.wait()  # until then, accepted by the kernel of somebody who is not there
            up_reader, up = await asyncio.open_connection("127.0.0.1", self.upstream)
            self._open.add(up)
            ways = {
                asyncio.ensure_future(self._pump(reader, up, answers=False)),
                asyncio.ensure_future(self._pump(up_reader, writer, answers=True)),
            }
            _done, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in left:
                way.cancel()
            await asyncio.wait(ways)
        except OSError:
            pass  # upstream is away: so is this connection
        finally:
            for end in filter(None, (writer, up)):
                self._open.discard(end)
                _reset(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if answers and self.lost_answers and self._dice.random() < self.lost_answers:
                    return
                if not self._passes.is_set():
                    continue
                writer.write(chunk)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    writer.transport.abort()


class Wires:
    """All wires of a system, by name, with the thread that they run in."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._thread.start()
        self._by_name: dict[str, Wire] = {}
        self._servers: list[Any] = []

    def __getitem__(self, name: str) -> Wire:
        return self._by_name[name]

    def names(self) -> list[str]:
        """Every wire."""
        return sorted(self._by_name)

    def add(self, name: str, upstream: int) -> Wire:
        """A wire that serves from now on."""
        wire = Wire(name, upstream, random.Random(f"{self._seed} {name}"))
        self._by_name[name] = wire
        self._servers.append(asyncio.run_coroutine_threadsafe(wire.serve(), self._loop))
        return wire

    def reset(self, name: str) -> None:
        """Breaks what stands on a wire."""
        self._do(self[name].reset())

    def silence(self, name: str, silent: bool) -> None:
        """Begins or ends a wire's silence."""
        self._do(self[name].set_silent(silent))

    def mend(self) -> None:
        """Ends every fault."""
        for wire in self._by_name.values():
            wire.delay, wire.refuses, wire.lost_answers = 0.0, False, 0.0
            self._do(wire.set_silent(False))

    def close(self) -> None:
        """Ends every wire and the thread."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
