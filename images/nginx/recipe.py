# SPDX-License-Identifier: Apache-2.0
"""nginx, master and two workers, under wrk; serves files, reloads, ends in good order."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from images import AnswerError, free_port
from images.installed import InstalledHttp, Load, tool
from images.records import record, spread
from images.session import descendants

FILES = 200
_WORKERS = 2
_MORE_REQUESTS = 1000
_CONFIGURATION = """
worker_processes {workers}; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off; sendfile on; open_file_cache max=100 inactive=60s; default_type text/plain;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=answers:10m;
    limit_req_zone $binary_remote_addr zone=all:4m rate=1000000r/s;
    server {{
        listen 127.0.0.1:{port} backlog=511; root {folder}/www; limit_req zone=all burst=1000;
        location = /status {{ stub_status; }}
        location /cached/ {{
            proxy_pass http://127.0.0.1:{port}/; proxy_cache answers; proxy_cache_valid 10m;
        }}
    }}
}}
"""


class Nginx(InstalledHttp):
    name: ClassVar[str] = "nginx"
    needs: ClassVar[dict[str, str]] = {"nginx": "nginx-light", "wrk": "wrk"}
    probe: ClassVar[str] = "/71"
    processes: ClassVar[int] = 1 + _WORKERS
    end_signal: ClassVar[int] = signal.SIGQUIT

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.folder = workdir / "nginx"

    def start(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        (self.folder / "www").mkdir(parents=True, exist_ok=True)
        for number in range(FILES):
            (self.folder / "www" / str(number)).write_text(_page(number))
        configuration = _CONFIGURATION.format(folder=self.folder, port=self.port, workers=_WORKERS)
        (self.folder / "nginx.conf").write_text(configuration)
        return self.spawn(tool("nginx"), "-e", self.folder / "error.log", "-c", self.folder / "nginx.conf")

    def kept(self) -> list[Path]:
        return [self.folder]

    def compare_probe(self, answer: bytes) -> None:
        _compare(71, answer)

    def check(self) -> None:
        self._ask_all()
        self._reload()
        self._ask_all()
        self._run_wrk()

    @contextmanager
    def busy(self) -> Iterator[Load]:
        """wrk keeps 32 connections open."""
        url = f"http://127.0.0.1:{self.port}/150"
        with subprocess.Popen(
            [tool("wrk"), "-t2", "-c32", "-d300s", "--timeout", "60s", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as load:
            try:
                self._wait_busy()
                yield _Wrk(load, self._requests)
            finally:
                load.kill()

    def _wait_busy(self) -> None:
        """Until wrk's 32 connections are there."""
        deadline = time.monotonic() + 30
        while self._established() < 32:
            if time.monotonic() > deadline:
                raise TimeoutError("wrk does not connect")
            time.sleep(0.01)

    def _requests(self) -> int:
        """How many it has answered so far: counted in memory that master and workers share."""
        return int(self.get("/status").split()[9])

    def _established(self) -> int:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        port = f"0100007F:{self.port:04X}"
        return sum(fields[1] == port and fields[3] == "01" for fields in map(str.split, lines))

    def _ask_all(self) -> None:
        for number in range(FILES):
            _compare(number, self.get(f"/{number}"))
            if number % 10 == 0:
                _compare(number, self.get(f"/cached/{number}"))

    def _reload(self) -> None:
        """As `nginx -s reload` does; other workers answer then."""
        master = int((self.folder / "nginx.pid").read_text())
        before = set(descendants(master))
        os.kill(master, signal.SIGHUP)
        deadline = time.monotonic() + 20
        while len(now := set(descendants(master)) - before) < _WORKERS or set(descendants(master)) & before:
            if time.monotonic() > deadline:
                raise AnswerError(f"nginx: after a reload its children are {now}, and before {before}")
            time.sleep(0.01)

    def _run_wrk(self) -> None:
        said = self.ask("wrk", "-t2", "-c32", "-d1s", f"http://127.0.0.1:{self.port}/150")
        if errors := _wrk_errors(said):
            raise AnswerError(f"nginx: wrk says {errors}")


class _Wrk:
    """wrk as it runs; `requests` tells how many have been answered."""

    def __init__(self, process: subprocess.Popen[str], requests: Callable[[], int]) -> None:
        self._process, self._requests = process, requests

    def go_on(self) -> None:
        before, deadline = self._requests(), time.monotonic() + 60
        while self._requests() < before + _MORE_REQUESTS:
            if time.monotonic() > deadline:
                raise TimeoutError(f"wrk stands still after {before} requests")
            time.sleep(0.01)

    def errors(self) -> str:
        """It prints its figures when it is interrupted."""
        self._process.send_signal(signal.SIGINT)
        return _wrk_errors(self._process.communicate(timeout=30)[0])


def _wrk_errors(said: str) -> str:
    """The complaints among what it prints."""
    if "requests in" not in said:
        return f"no figures: {said}"
    return "; ".join(line.strip() for line in said.splitlines() if "errors" in line or "Non-2xx" in line)


def _page(number: int) -> str:
    return "".join(record(spread(number * 100 + part, 1 << 30)) for part in range(1 + number % 100))


def _compare(number: int, answer: bytes) -> None:
    if answer.decode() != _page(number):
        raise AnswerError(f"nginx: /{number} has {len(answer)} bytes, and something wrong")


RECIPE = Nginx
