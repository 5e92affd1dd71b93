"""The server as a process of its own, to be killed."""

import contextlib
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
        try:
            self._until_ready(seconds)
        except BaseException:  # a test's time is over, say: no server stays behind
            self.process.kill()
            raise
        if self.process.poll() is not None:
            raise AssertionError(self.wait())

    def _until_ready(self, seconds):
        deadline, pause = time.monotonic() + seconds, 0.1
        with httpx.Client(timeout=seconds) as client:
            while self.process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if client.get(f"{self.url}/ready").status_code == 200:
                        return
                if time.monotonic() > deadline:
                    self.process.kill()
                    self.process.wait()
                    return
                time.sleep(pause)
                pause = min(1.0, 1.1 * pause)  # on a busy machine the server needs the processor for itself

    def end(self, how):
        self.process.send_signal(how)
        return self.wait(30)

    def wait(self, seconds=60):
        """What it logged, once it has ended. To be called once."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        with self._log:
            self._log.seek(0)
            return self._log.read().decode()
