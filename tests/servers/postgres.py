"""A PostgreSQL server."""

import os
import secrets
import shutil
import signal
from pathlib import Path

from process import HOST, REPOSITORY, Server, accepts_connections, free_port


class Postgres(Server):
    COMMANDS = Server.COMMANDS | {"backup"}
    USERS = ("postgres", "nobody")
    DEATH_SIGNAL = "QUIT"  # after KILL its shared memory would stay

    @classmethod
    def add_options(cls, parser):
        parser.add_argument("--version", type=int, default=15)
        parser.add_argument("-c", dest="settings", metavar="NAME=VALUE", action="append", default=[])
        parser.add_argument("--backup", type=Path, help="a base backup to start from")
        parser.add_argument("--as", dest="role", choices=("recovery", "standby"), help="what to do with it")
        parser.add_argument("--tls-cert", type=Path)
        parser.add_argument("--tls-key", type=Path)

    def prepare(self):
        self.port = free_port()
        self.password = secrets.token_urlsafe(24)
        self.data = self.directory_of_server("data")
        self.sockets = self.directory_of_server("sockets")
        self.programs = self.find_programs()
        if self.options.backup:
            self.run("cp", "-a", f"{self.options.backup}/.", self.data)
            self.file_of_server(f"data/{self.options.role}.signal", "")
        else:
            self.initialise()
        self.settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": self.sockets,
            "max_connections": 400,
            # A crash of the server loses nothing that it has handed to the
            # system; only a crash of the machine does, and no test does that.
            "fsync": "off",
            "log_statement": "all",
            "log_line_prefix": "%m [%p] %u@%d ",
        }
        if self.options.tls_cert:
            self.settings |= {
                "ssl": "on",
                "ssl_cert_file": self.file_of_server("tls.crt", self.options.tls_cert.read_bytes()),
                "ssl_key_file": self.file_of_server("tls.key", self.options.tls_key.read_bytes()),
            }
        self.settings |= dict(setting.split("=", 1) for setting in self.options.settings)

    def initialise(self):
        password_file = self.file_of_server("password", self.password)
        self.run(
            self.programs / "initdb",
            f"--pgdata={self.data}",
            "--username=postgres",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        password_file.unlink()

    def environment(self):
        return {"PGPASSWORD": self.password}

    def backup(self):
        """Takes a base backup; where it is, and where the WAL comes that follows it."""
        path = self.directory_of_server("backup")
        connection = ["--host", HOST, "--port", self.port, "--username=postgres"]
        self.run(self.programs / "pg_basebackup", *connection, "--pgdata", path, "--checkpoint=fast", "--no-sync")
        return {"path": str(path), "wal": str(self.data / "pg_wal")}

    def find_programs(self):
        debian = Path(f"/usr/lib/postgresql/{self.options.version}/bin")
        if debian.exists():
            return debian
        installed = REPOSITORY / f"target/postgres/{self.options.version}"
        if self.user and not all_may_enter(installed):
            # The repository may be in a home that the server's user cannot enter.
            shutil.copytree(installed, self.directory / "postgres", symlinks=True)
            installed = self.directory / "postgres"
        return installed / "bin"

    def command(self):
        settings = (part for name, value in self.settings.items() for part in ("-c", f"{name}={value}"))
        return [self.programs / "postgres", "-D", self.data, *settings]

    def is_ready(self):
        # The server writes its state into the last line of this file, as pg_ctl reads it.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return (
            len(lines) >= 8
            and int(lines[0]) == self.process.pid
            and lines[7].strip() == "ready"
            and accepts_connections(self.port)
        )

    def description(self):
        return {
            "host": HOST,
            "port": self.port,
            "superuser": "postgres",
            "password": self.password,
            "version": self.options.version,
            "log": str(self.log),
            "pid": self.process.pid,
        }

    def stop(self):
        self.end(signal.SIGINT)  # fast: it ends its sessions

    def kill(self):
        self.end(signal.SIGQUIT)  # immediate: it recovers at its next start


def all_may_enter(path):
    return all(os.stat(parent).st_mode & 0o001 for parent in (path, *path.parents))
