from typing import Any

class GreenSocket:
    def __init__(self, sock: Any) -> None: ...
