"""The dashboard's page, over a status that a test can change."""

from collections.abc import Callable
from http.server import ThreadingHTTPServer

from statuses import HEALTHY

from paystream.settings import Settings
from paystream.status.dashboard import routes
from paystream.status.health import judge
from paystream.status.server import handler
from paystream.status.state import Status


class Dashboard:
    """The page and where it is. Set ``status`` for what it shows next; ``asked`` has every path that was asked for."""

    def __init__(self) -> None:
        self.status: Status = HEALTHY
        self.asked: list[str] = []
        answers = routes(lambda: (self.status, judge(self.status, Settings(_env_file=None))))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler({p: self._noted(p, a) for p, a in answers.items()}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def _noted(self, path: str, answer: Callable) -> Callable:
        def noted() -> object:
            self.asked.append(path)
            return answer()

        return noted
