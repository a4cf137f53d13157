"""What all kinds of server share: a directory, ports, a user and a process."""

import os
import pwd
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 180
STOP_SECONDS = 90
UNTRIED_PORTS = list(range(15000, 32000))
# Of the ports that are this process's, until it ends.
RESERVATIONS = []


class Failure(Exception):
    """Something that the tests should read: the server did not do as it was told."""


class Server:
    """One server: `prepare` once, then `start`, `stop` and `kill` in turn, `remove` last."""

    COMMANDS = {"start", "stop", "kill"}
    # Root runs the server as the first of these users that exists; anybody else as themselves.
    USERS = ("nobody",)
    # What it gets should this process be killed.
    DEATH_SIGNAL = "KILL"
    # Whether its files should be in memory, where that has room for them.
    IN_MEMORY = False

    def __init__(self, options):
        self.options = options
        self.user = server_user(self.USERS) if os.geteuid() == 0 else None
        # Unix socket paths end at 107 bytes, and the server's user cannot look into every home.
        parent = "/dev/shm" if self.IN_MEMORY and has_room("/dev/shm") else "/tmp"
        self.directory = Path(tempfile.mkdtemp(prefix="keycard-", dir=parent))
        self.directory.chmod(0o755)
        self.log = self.directory / "log"
        self.process = None

    @classmethod
    def add_options(cls, parser):
        """Adds what this kind understands to the command line."""

    def prepare(self):
        """Makes what outlives a restart."""

    def command(self):
        """The program and its arguments."""
        raise NotImplementedError

    def environment(self):
        return {}

    def is_ready(self):
        raise NotImplementedError

    def description(self):
        """What the tests need to know."""
        raise NotImplementedError

    def start(self):
        if self.process:
            raise Failure("start: it is already running")
        self.process = self.spawn(self.command())
        self.wait_until(self.is_ready, "readiness")

    def stop(self, stop_signal=signal.SIGTERM):
        self.end(stop_signal)

    def kill(self):
        self.end(signal.SIGKILL)

    def remove(self):
        try:
            if self.process:
                self.kill()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def end(self, signal_number):
        if not self.process:
            raise Failure("it is not running")
        process, self.process = self.process, None
        process.send_signal(signal_number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as timeout:
            process.kill()
            process.wait()
            raise Failure(f"signal {signal_number} did not end it in {STOP_SECONDS} s") from timeout
        finally:
            end_group(process.pid)

    def spawn(self, command):
        """Starts a process that dies with this one and is deaf to the terminal's Ctrl-C."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["setpriv", *self.identity(), "--pdeathsig", self.DEATH_SIGNAL, "--", *map(str, command)],
                cwd=self.directory,
                env=self.clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *command):
        """Runs a tool as the server's user to its end; its output."""
        try:
            result = subprocess.run(
                ["setpriv", *self.identity(), "--", *map(str, command)],
                cwd=self.directory,
                env=self.clean_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as timeout:
            raise Failure(f"{command[0]} did not end in {START_SECONDS} s") from timeout
        if result.returncode:
            raise Failure(f"{command[0]} failed: {result.stdout}{result.stderr}")
        return result.stdout

    def identity(self):
        if not self.user:
            return ["--no-new-privs"]
        return [f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--init-groups"]

    def clean_environment(self):
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.directory), **self.environment()}

    def wait_until(self, predicate, what):
        deadline = time.monotonic() + START_SECONDS
        while not predicate():
            if self.process.poll() is not None:
                code, self.process = self.process.returncode, None
                raise Failure(f"it ended with {code} before {what}")
            if time.monotonic() > deadline:
                raise Failure(f"no {what} in {START_SECONDS} s")
            if stdin_is_abandoned():
                sys.exit(1)
            time.sleep(0.02)

    def directory_of_server(self, name):
        """A directory that only the server's user may use."""
        path = self.directory / name
        path.mkdir(mode=0o700)
        self.give(path)
        return path

    def file_of_server(self, name, content):
        """A file that only the server's user may read."""
        path = self.directory / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        self.give(path)
        return path

    def give(self, path):
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def log_tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:]) if self.log.exists() else ""


def has_room(directory):
    """Whether what some servers write in minutes fits: a container's /dev/shm often has 64 MiB."""
    try:
        room = os.statvfs(directory)
    except FileNotFoundError:
        return False
    return room.f_bavail * room.f_frsize >= 4 << 30


def server_user(names):
    for name in names:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Failure(f"none of the users {names} exists")


def end_group(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def stdin_is_abandoned():
    poll = select.poll()
    poll.register(sys.stdin, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def free_port():
    """A free port below those that the kernel gives to outgoing connections, so
    that none of them takes it while its server is down for a restart; nor does
    another of these processes, to which an abstract socket says whose it is."""
    while True:
        port = random.choice(UNTRIED_PORTS)
        UNTRIED_PORTS.remove(port)
        reservation = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe:
            try:
                reservation.bind(f"\0keycard-test-port-{port}")
                probe.bind((HOST, port))
            except OSError:
                reservation.close()
                continue
        RESERVATIONS.append(reservation)
        return port


def accepts_connections(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
