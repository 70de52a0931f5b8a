# SPDX-License-Identifier: Apache-2.0
"""A service that answers from a cache of parsed JSON: `python -m images.http_cache.service PORT MEGABYTES`.

GET /item/N: one customer. GET /sum: the cents of all orders. GET /audit: what the auditor has found so far.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from images.http_cache import catalog
from images.serving import JsonHandler, serve

Customer = dict[str, Any]


class Cache:
    """All customers, parsed; and a thread that compares one after the other with its source."""

    def __init__(self, items: int) -> None:
        self.customers: dict[int, Customer] = {n: json.loads(catalog.customer_json(n)) for n in range(items)}
        self.checked = 0
        self.wrong = 0
        self.lock = threading.Lock()

    def total_cents(self) -> int:
        return sum(order["cents"] for customer in self.customers.values() for order in customer["orders"])

    def audit(self) -> None:
        """Runs for ever, one customer each 50 ms."""
        pause = threading.Event()
        while not pause.wait(0.05):
            number = catalog.mix(self.checked, 7) % len(self.customers)
            with self.lock:
                self.checked += 1
                self.wrong += self.customers[number] != json.loads(catalog.customer_json(number))


class Handler(JsonHandler):
    cache: Cache

    def answer(self) -> object:
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "item" and rest.isdigit():
            return self.cache.customers.get(int(rest))
        if kind == "sum":
            return self.cache.total_cents()
        if kind == "audit":
            with self.cache.lock:
                return {"checked": self.cache.checked, "wrong": self.cache.wrong}
        return None


def main() -> None:
    port, megabytes = int(sys.argv[1]), int(sys.argv[2])
    Handler.cache = Cache(megabytes * catalog.ITEMS_PER_MB)
    threading.Thread(target=Handler.cache.audit, name="audit", daemon=True).start()
    serve(port, Handler)


if __name__ == "__main__":
    main()
