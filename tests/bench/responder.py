"""The cheapest server there is: accepts every check-in unread. Shows how much the load generator itself can send.

``python -m tests.bench.responder PORT ROWS``.
"""

import re
import select
import socket
import sys
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def main(port: int, rows: int) -> None:
    """Answers until killed."""
    body = b",".join([b'"accepted"'] * rows)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, tuple[socket.socket, bytearray]] = {}
    while True:
        for descriptor, _event in poll.poll():
            if descriptor == listener.fileno():
                accepted, _address = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[accepted.fileno()] = (accepted, bytearray())
                poll.register(accepted.fileno(), select.EPOLLIN)
                continue
            connection, buffer = connections[descriptor]
            part = connection.recv(1 << 20)
            if not part:
                poll.unregister(descriptor)
                connections.pop(descriptor)[0].close()
                continue
            buffer += part
            end = buffer.find(b"\r\n\r\n")
            found = _LENGTH.search(buffer, 0, end) if end >= 0 else None
            if found and len(buffer) >= end + 4 + int(found[1]):
                buffer.clear()
                connection.sendall(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
