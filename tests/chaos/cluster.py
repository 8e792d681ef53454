"""A PostgreSQL server of a test's own, which it may stop and start as it likes."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from sqlalchemy import URL

from tests.postgresql import missing

PLACES = [*map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), *os.environ["PATH"].split(":")]


def program(name):
    found = shutil.which(name, path=":".join(PLACES))
    if found is None:
        missing(f"there is no {name} here; install PostgreSQL's server programs with: make services")
    return found


class Cluster:
    """Its data in `folder`, on a free port of loopback."""

    def __init__(self, folder):
        self.data = folder / "data"
        self.log = folder / "server.log"
        # The server refuses to run as root, and then needs a folder that its own user can reach.
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(folder, "postgres")
            folder.chmod(0o755)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8")

    @property
    def url(self):
        made = URL.create("postgresql+psycopg", "postgres", host="127.0.0.1", port=self.port, database="postgres")
        return made.render_as_string()

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=300"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.log, "-o", options, "start")

    def stop(self, mode="immediate"):
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def _run(self, name, *arguments):
        command = [*self._as, program(name), *map(str, arguments)]
        # Not a pipe: the server would keep it open.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
