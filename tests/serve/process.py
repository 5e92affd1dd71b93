"""The server as a process of its own, to be killed."""

import socket
import subprocess
import sys
import time

import httpx


class Process:
    """`reranker serve` on a free port; constructed when it is ready."""

    def __init__(self, bundle, *flags, seconds=60):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", "from reranker.cli import main; main()", "serve", "--bundle", bundle]
        self.process = subprocess.Popen(
            [*map(str, command), "--port", str(port), *map(str, flags)], stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(self.process.communicate()[1])

    def end(self, how):
        self.process.send_signal(how)
        return self.process.communicate(timeout=30)[1].decode()
