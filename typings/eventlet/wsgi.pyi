from typing import Any

STATE_IDLE: str

class HttpProtocol:
    def __init__(self, conn_state: Any, server: Any) -> None: ...
    def version_string(self) -> str: ...

class Server:
    keepalive: Any
    outstanding_requests: int
    socket_timeout: float | None
    def __init__(self, socket: Any, address: Any, app: Any, **options: Any) -> None: ...
    def process_request(self, conn_state: Any) -> None: ...
