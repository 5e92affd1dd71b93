"""The server as a process of its own, to be killed."""

import socket
import subprocess
import sys
import tempfile
import time

import httpx


class Process:
    """`reranker serve` on a free port; constructed when it is ready."""

    def __init__(self, bundle, *flags, seconds=60):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # A file: nobody reads a pipe while the server runs, and once it is full every process that logs stands still.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-c", "from reranker.cli import main; main()", "serve", "--bundle", bundle]
        self.process = subprocess.Popen([*map(str, command), "--port", str(port), *map(str, flags)], stderr=self._log)
        deadline = time.monotonic() + seconds
        with httpx.Client() as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    if client.get(f"{self.url}/ready").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        self.process.kill()
        raise AssertionError(self.wait())

    def end(self, how):
        self.process.send_signal(how)
        return self.wait(30)

    def wait(self, seconds=60):
        """What it logged, once it has ended. To be called once."""
        self.process.wait(seconds)
        with self._log:
            self._log.seek(0)
            return self._log.read().decode()
