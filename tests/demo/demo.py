#!/usr/bin/python3 -B
"""Tells keycard's story on private servers; every line of it comes from the running system.

    demo.py            one PostgreSQL, secrets in a directory
    demo.py aws        PostgreSQL, RabbitMQ, and moto for AWS Secrets Manager

Everything listens on loopback and is gone afterwards, also when the story is interrupted.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sites import SITES, Failure

BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GONE_SECONDS = 90


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=SITES, default="embedded")
    kind = parser.parse_args().kind
    sys.stdout.reconfigure(line_buffering=True)  # commands write between these lines
    begun = time.monotonic()
    for number in SIGNALS:
        signal.signal(number, interrupted)
    try:
        with tempfile.TemporaryDirectory(prefix="keycard-demo-") as directory:
            with SITES[kind](Path(directory)) as site:
                tell(site)
    except (Failure, OSError, subprocess.CalledProcessError) as failure:
        sys.exit(f"demo: {failure}")
    print(f"\n{DIM}Everything that was started is gone; {time.monotonic() - begun:.0f} s.{PLAIN}")


def interrupted(number, _frame):
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one would interrupt the clean-up
    sys.exit(128 + number)


def tell(site):
    shell = Shell(site)
    chapter(f"{site.title}; one role, whose privileges every login gets")
    shell.run("cat keycard.toml")
    shell.run("keycard setup-sql --database shop | $ADMIN")
    shell.run("""$ADMIN -c "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname !~ '^pg_'" """)

    chapter("A worker; a service asks for a credential and uses it")
    shell.show("keycard worker &")
    print(site.start_worker())
    shell.run("keycard request shop-app --ttl 15s --format env > orders.env")
    shell.run('. ./orders.env; psql -c "SELECT current_user, count(*) AS orders FROM orders"')

    chapter("Another service gets another login, which goes when its command ends")
    shell.run(f"{site.as_billing} \\\n    keycard run shop-app -- psql -Atc 'SELECT current_user'")
    shell.run("keycard lease list --all")

    chapter("A renewal: the same login, a later end")
    lease = next(lease for lease in shell.leases() if lease["requester"] == "orders-svc")
    shell.run(f"keycard lease renew {lease['lease_id']} --ttl 15s")
    shell.run(site.secrets)

    chapter("Its time is up: PostgreSQL refuses the login; login and secret are gone")
    shell.wait_for_end(lease["lease_id"])
    shell.run('. ./orders.env; psql -c "SELECT current_user"', fails=True)
    shell.run("""$ADMIN -c "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname !~ '^pg_'" """)
    shell.run(site.secrets)

    chapter("What the ledger remembers")
    shell.run(f"keycard lease show {lease['username']}")


def chapter(title):
    print(f"\n{BOLD}== {title}{PLAIN}")


class Shell:
    """Commands as a person would type them, and what they print."""

    def __init__(self, site):
        self.site = site

    def show(self, command):
        print(f"{DIM}$ {command.strip()}{PLAIN}")

    def run(self, command, fails=False):
        self.show(command)
        status = subprocess.run(
            ["bash", "-c", command],
            cwd=self.site.directory,
            env=self.site.environment,
            stderr=subprocess.STDOUT,
        ).returncode
        if bool(status) != fails:
            raise Failure(f"the last command ended with {status}")

    def leases(self):
        command = ["keycard", "lease", "list", "--all", "--output", "json"]
        output = subprocess.run(
            command, cwd=self.site.directory, env=self.site.environment, stdout=subprocess.PIPE, check=True
        )
        return json.loads(output.stdout)

    def wait_for_end(self, lease_id):
        deadline = time.monotonic() + GONE_SECONDS
        while time.monotonic() < deadline:
            if any(lease["lease_id"] == lease_id and lease["state"] == "closed" for lease in self.leases()):
                return
            time.sleep(0.2)
        raise Failure(f"the lease {lease_id} has not ended in {GONE_SECONDS} s")


if __name__ == "__main__":
    main()
