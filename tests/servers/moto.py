"""Moto, which stands in for AWS Secrets Manager."""

import urllib.error
import urllib.request

from process import HOST, REPOSITORY, Server, free_port


class Moto(Server):
    def prepare(self):
        # Its venv may be in a home that no other user can enter.
        self.user = None
        self.port = free_port()

    def command(self):
        return [REPOSITORY / "target/venv/bin/moto_server", "-H", HOST, "-p", self.port]

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"{self.url()}/moto-api/", timeout=5).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def url(self):
        return f"http://{HOST}:{self.port}"

    def description(self):
        return {"url": self.url(), "log": str(self.log), "pid": self.process.pid}
