#!/usr/bin/python3 -B
"""Runs one private server for the tests, for as long as somebody holds its stdin.

    serve.py postgres [--version 17] [-c name=value]... [--tls-cert F --tls-key F]
                      [--backup DIRECTORY --as recovery|standby]
    serve.py rabbitmq [--tls-cert F --tls-key F --tls-ca F]
    serve.py moto

When the server is ready, one JSON object on stdout says where it is. Then every
line on stdin is a command, answered by one line, `{"ok": true, ...}` or
`{"ok": false, "error": "..."}`:

    stop       in good order
    kill       at once, as a crash would
    start      again, on the same ports and data
    backup     postgres 15 only: takes a base backup
    ctl [...]  rabbitmq only: runs rabbitmqctl with these arguments

At the end of stdin the server is ended and its directory removed: whichever way
the test process dies, nothing is left running.
"""

import argparse
import json
import os
import signal
import sys

from moto import Moto
from postgres import Postgres
from process import Failure
from rabbitmq import RabbitMq


def main():
    options = arguments()
    on_signals(lambda *_: sys.exit(1))
    # A shell's background jobs, and so the server, would inherit that it is ignored.
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    server = options.kind(options)
    try:
        server.prepare()
        server.start()
        answer(server.description())
        for line in sys.stdin:
            answer(obey(server, line))
    except Failure as failure:
        sys.exit(f"{failure}\n{server.log_tail()}")
    except BrokenPipeError:
        # Nobody reads any more: Python shall not stumble over it again on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        on_signals(signal.SIG_IGN)  # a second one would interrupt the clean-up
        server.remove()


def on_signals(handler):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


def obey(server, line):
    command, _, argument = line.strip().partition(" ")
    try:
        if command not in server.COMMANDS:
            raise Failure(f"unknown command {command!r}")
        action = getattr(server, command)
        result = action(json.loads(argument)) if argument else action()
        return {"ok": True, **(result or {})}
    except (Failure, ValueError, TypeError) as failure:
        return {"ok": False, "error": str(failure)}


def answer(message):
    print(json.dumps(message), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    for kind in (Postgres, RabbitMq, Moto):
        of_kind = kinds.add_parser(kind.__name__.lower())
        kind.add_options(of_kind)
        of_kind.set_defaults(kind=kind)
    return parser.parse_args()


if __name__ == "__main__":
    main()
