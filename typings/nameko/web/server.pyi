from typing import Any

from nameko.extensions import ProviderCollector, SharedExtension

class WebServer(ProviderCollector, SharedExtension):
    _gt: Any
    _sock: Any
    _serv: Any
    _is_accepting: bool
    @property
    def bind_addr(self) -> Any: ...
    def get_wsgi_app(self) -> Any: ...
    def get_wsgi_server(self, sock: Any, wsgi_app: Any, **options: Any) -> Any: ...
    def run(self) -> None: ...
