"""Where the story takes place: private servers, a database with a shop, keycard's configuration."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
BINARIES = TESTS.parent / "target/debug"
READY_SECONDS = 90

SERVICES = ("orders-svc", "billing-svc")  # their passwords are their names: they live for a demo

CONFIGURATION = """\
installation = "demo"

[databases.shop]
connection_url = "postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/shop"
username = "keycard"
password = {{ env = "KEYCARD_DB_PASSWORD" }}
allowed_roles = ["shop-app"]

[roles.shop-app]
database = "shop"
groups = ["shop_readwrite"]
min_ttl = "1s"
requesters = ["orders-svc", "billing-svc"]
{sections}
[client]
url = "{client}"
password = {{ env = "CLIENT_PASSWORD" }}
"""

SHOP = """
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, article text);
INSERT INTO orders (article) VALUES ('a lamp'), ('a chair'), ('a table');
CREATE ROLE shop_readwrite NOLOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO shop_readwrite;
CREATE ROLE keycard LOGIN CREATEROLE PASSWORD 'keycard';
"""


class Failure(Exception):
    """Something that the story needs cannot be had."""


class Embedded(contextlib.ExitStack):
    """One PostgreSQL, secrets in a directory: the embedded default."""

    title = "PostgreSQL, and nothing else"
    sections = ""
    secrets = "find keycard-secrets -type f -name 'shop.*'"

    def __init__(self, directory):
        super().__init__()
        self.directory = directory

    def __enter__(self):
        super().__enter__()
        with contextlib.ExitStack() as on_failure:
            on_failure.push(self)
            self.prepare()
            on_failure.pop_all()
        return self

    def prepare(self):
        postgres = self.serve("postgres", "-clog_statement=none", "-clog_min_messages=panic")
        superuser = "postgresql://postgres:{password}@{host}:{port}/".format(**postgres)
        self.postgres = postgres
        self.environment = {
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
            "HOME": str(self.directory),
            "TERM": os.environ.get("TERM", "dumb"),
            "PAGER": "cat",  # nobody is asked to turn pages on a small terminal
            "LC_ALL": "C.UTF-8",
            "ADMIN": f"psql -X -q {superuser}shop",
            "KEYCARD_DB_PASSWORD": "keycard",
            "CLIENT_PASSWORD": "orders-svc",
        }
        self.psql(f"{superuser}postgres", "CREATE DATABASE shop")
        self.psql(f"{superuser}shop", SHOP)
        client = self.prepare_queue(f"{superuser}shop")
        (self.directory / "keycard.toml").write_text(
            CONFIGURATION.format(**postgres, sections=self.sections, client=client.format(user="orders-svc"))
        )
        self.as_billing = f"KEYCARD_CLIENT__URL={client.format(user='billing-svc')} CLIENT_PASSWORD=billing-svc"

    def prepare_queue(self, superuser):
        """Makes the services' users; where they connect."""
        for service in SERVICES:
            self.psql(superuser, f"""CREATE ROLE "{service}" LOGIN PASSWORD '{service}'""")
        return "postgresql://{{user}}@{host}:{port}/shop".format(**self.postgres)

    def psql(self, where, script):
        subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", where], input=script, text=True, check=True)

    def serve(self, kind, *arguments):
        """Starts one of the tests' servers. It ends when its stdin does, so with this process at the latest."""
        process = subprocess.Popen(
            [TESTS / "servers/serve.py", kind, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the story alone
        )
        self.callback(process.wait)
        self.callback(process.stdin.close)
        ready = process.stdout.readline()
        if not ready:
            raise Failure(f"{kind} did not start; it says why above")
        server = json.loads(ready)
        server["obey"] = lambda command: process.stdin.write(f"{command}\n")
        return server

    def start_worker(self):
        """Starts the worker and returns the line with which it says that it serves."""
        log = self.directory / "worker.log"
        with log.open("wb") as writer:
            worker = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "keycard", "worker"],
                cwd=self.directory,
                env=self.environment | {"NO_COLOR": "1"},
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        self.callback(worker.wait)
        self.callback(worker.send_signal, signal.SIGTERM)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and worker.poll() is None:
            for line in log.read_text().splitlines():
                if "keycard serves" in line:
                    return line
            time.sleep(0.02)
        raise Failure(f"the worker did not start:\n{log.read_text()}")


class Aws(Embedded):
    """RabbitMQ, and moto for AWS Secrets Manager."""

    title = "PostgreSQL, RabbitMQ and Secrets Manager (moto)"
    secrets = """boto3 -c 'import boto3; [print(it["Name"]) for it in boto3.client("secretsmanager").list_secrets()["SecretList"]]'"""

    def prepare_queue(self, superuser):
        self.broker = self.serve("rabbitmq")
        moto = self.serve("moto")
        self.environment |= {
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": moto["url"],
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",  # boto3 reads this one
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_EC2_METADATA_DISABLED": "true",
            "BROKER_PASSWORD": "keycard",
            "PATH": f"{self.path_with_boto3()}:{self.environment['PATH']}",
        }
        self.manage("vhosts/keycard")
        own = r"^keycard\."
        self.make_user("keycard", own, r"^(keycard\.|amq\.default$)", own)
        for service in SERVICES:
            self.make_user(
                service,
                f"^{service}\\.",
                f"^({service}\\..*|keycard\\.(requests|leases))$",
                f"^({service}\\..*|keycard\\.events)$",
            )
            topic = {"exchange": "keycard.events", "write": "^$", "read": f"^{service}\\."}
            self.manage(f"topic-permissions/keycard/{service}", topic)
        broker = "{host}:{port}/keycard".format(**self.broker)
        self.sections = f"""
[queue]
kind = "amqp"
url = "amqp://keycard@{broker}"
password = {{ env = "BROKER_PASSWORD" }}

[store]
kind = "aws-secrets-manager"
"""
        return f"amqp://{{user}}@{broker}"

    def path_with_boto3(self):
        """A directory with a command for the Python that has moto, and so boto3."""
        programs = self.directory / "bin"
        programs.mkdir()
        boto3 = programs / "boto3"
        boto3.write_text(f'#!/bin/sh\nexec "{TESTS.parent}/target/venv/bin/python" "$@"\n')
        boto3.chmod(0o755)
        return programs

    def make_user(self, name, configure, write, read):
        self.manage(f"users/{name}", {"password": name, "tags": ""})
        self.manage(f"permissions/keycard/{name}", {"configure": configure, "write": write, "read": read})

    def manage(self, path, body=None):
        """One PUT to the broker's management interface."""
        user = "{user}:{password}".format(**self.broker)
        request = urllib.request.Request(
            "http://{host}:{http_port}/api/".format(**self.broker) + path,
            json.dumps(body or {}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"},
            method="PUT",
        )
        urllib.request.urlopen(request, timeout=READY_SECONDS).close()


SITES = {"embedded": Embedded, "aws": Aws}
