"""A RabbitMQ broker with an Erlang port mapper of its own."""

import secrets
from pathlib import Path

from process import HOST, Server, accepts_connections, free_port

PROGRAMS = Path("/usr/lib/rabbitmq/bin")


class RabbitMq(Server):
    COMMANDS = Server.COMMANDS | {"ctl"}
    USERS = ("rabbitmq",)
    # It flushes every message to disk, which only a crash of the machine would miss.
    IN_MEMORY = True

    @classmethod
    def add_options(cls, parser):
        parser.add_argument("--tls-cert", type=Path)
        parser.add_argument("--tls-key", type=Path)
        parser.add_argument("--tls-ca", type=Path)

    def prepare(self):
        self.port = free_port()
        self.http_port = free_port()
        self.distribution_port = free_port()
        self.mapper_port = free_port()
        self.tls_port = free_port() if self.options.tls_cert else None
        self.https_port = free_port() if self.options.tls_cert else None
        self.password = secrets.token_urlsafe(24)
        self.home = self.directory_of_server("home")
        self.mapper = None
        self.file_of_server("home/.erlang.cookie", secrets.token_hex(16)).chmod(0o400)
        self.file_of_server("home/plugins", "[rabbitmq_management].")
        self.file_of_server("home/rabbitmq.conf", self.configuration())
        self.file_of_server("home/none.conf", "")

    def configuration(self):
        lines = [
            f"listeners.tcp.1 = {HOST}:{self.port}",
            f"management.tcp.ip = {HOST}",
            f"management.tcp.port = {self.http_port}",
            # A client that the machine lets wait for seconds is not sent away for it.
            "handshake_timeout = 60000",
            "management.tcp.request_timeout = 60000",
            "collect_statistics_interval = 500",
            "management.sample_retention_policies.global.minute = 1",
            "management.sample_retention_policies.basic.minute = 1",
            "management.sample_retention_policies.detailed.10 = 1",
            "default_user = admin",
            f"default_pass = {self.password}",
        ]
        if self.tls_port:
            lines += [
                f"listeners.ssl.1 = {HOST}:{self.tls_port}",
                f"ssl_options.certfile = {self.file_of_server('tls.crt', self.options.tls_cert.read_bytes())}",
                f"ssl_options.keyfile = {self.file_of_server('tls.key', self.options.tls_key.read_bytes())}",
                f"ssl_options.cacertfile = {self.file_of_server('tls-ca.crt', self.options.tls_ca.read_bytes())}",
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = false",
                "ssl_handshake_timeout = 60000",
                f"management.ssl.ip = {HOST}",
                f"management.ssl.port = {self.https_port}",
                "management.ssl.request_timeout = 60000",
                f"management.ssl.certfile = {self.directory / 'tls.crt'}",
                f"management.ssl.keyfile = {self.directory / 'tls.key'}",
            ]
        return "\n".join(lines) + "\n"

    def environment(self):
        return {
            "HOME": str(self.home),
            "RABBITMQ_NODENAME": f"keycard{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.home / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "none.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.home / "none"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.home / "config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "plugins"),
            # The script then becomes the broker, instead of starting one: signals reach it.
            "RUNNING_UNDER_SYSTEMD": "true",
            # One scheduler need not wake another; an idle one would spin on the cores that the tests want.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1 +sbwt none +sbwtdcpu none +sbwtdio none -rabbit quorum_tick_interval 500",
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": HOST,
            # Every Erlang VM, the tools' own included, listens for others.
            "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def command(self):
        return [PROGRAMS / "rabbitmq-server"]

    def start(self):
        if not self.mapper:
            # A broker that finds none starts one that outlives it.
            self.mapper = self.spawn(["epmd", "-address", HOST, "-port", self.mapper_port])
        self.logged_before = self.log.stat().st_size
        super().start()

    def is_ready(self):
        ports = (self.port, self.http_port, self.https_port)
        return all(accepts_connections(port) for port in ports if port) and self.has_started()

    def has_started(self):
        """Whether it says so: rabbitmqctl is refused until then, although its ports are open."""
        with self.log.open("rb") as log:
            log.seek(self.logged_before)
            return b"Server startup complete" in log.read()

    def remove(self):
        if self.mapper:
            self.mapper.kill()
            self.mapper.wait()
        super().remove()

    def ctl(self, arguments):
        return {"stdout": self.run(PROGRAMS / "rabbitmqctl", *arguments)}

    def description(self):
        return {
            "host": HOST,
            "port": self.port,
            "tls_port": self.tls_port,
            "http_port": self.http_port,
            "https_port": self.https_port,
            "user": "admin",
            "password": self.password,
            "log": str(self.log),
            "pid": self.process.pid,
        }
