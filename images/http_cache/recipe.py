# SPDX-License-Identifier: Apache-2.0
"""CPython's threaded HTTP server over a cache of parsed JSON, RESTORER_CACHE_MB megabytes large (200)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import ClassVar

from images import AnswerError, HttpRecipe, free_port
from images.http_cache import catalog


class HttpCache(HttpRecipe):
    name: ClassVar[str] = "http_cache"
    probe: ClassVar[str] = "/item/71"

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.megabytes = int(os.environ.get("RESTORER_CACHE_MB", "200"))
        self.items = self.megabytes * catalog.ITEMS_PER_MB

    def start(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        return self.spawn_module("images.http_cache.service", str(self.port), str(self.megabytes))

    def compare_probe(self, answer: bytes) -> None:
        self._compare(71, answer)

    def check(self) -> None:
        for step in range(50):
            number = catalog.mix(step, 9) % self.items
            self._compare(number, self.get(f"/item/{number}"))
        total = json.loads(self.get("/sum"))
        expected = catalog.total_cents(self.items)
        if total != expected:
            raise AnswerError(f"/sum is {total}, not {expected}")
        audit = json.loads(self.get("/audit"))
        if audit["wrong"]:
            raise AnswerError(f"the service found {audit['wrong']} of {audit['checked']} customers damaged")

    def _compare(self, number: int, answer: bytes) -> None:
        if json.loads(answer) != json.loads(catalog.customer_json(number)):
            raise AnswerError(f"/item/{number} is {answer[:200]!r}")


RECIPE = HttpCache
