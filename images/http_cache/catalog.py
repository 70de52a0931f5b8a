# SPDX-License-Identifier: Apache-2.0
"""The customers of the cache: what the service parses, and what the check expects, both from a seed."""

from __future__ import annotations

ITEMS_PER_MB = 175  # a parsed customer takes about 6 KB of Python heap

_MASK = (1 << 64) - 1


def _words(text: str) -> list[str]:
    return text.split()


_FIRST = _words(
    "Ada Alan Barbara Carol Dennis Donald Edsger Emmy Frances Grace Hedy Ivan Joan John Karen "
    "Katherine Ken Leslie Linus Margaret Niklaus Radia Robin Shafi Sophie Tim Tony Whitfield"
)
_LAST = _words(
    "Allen Backus Berners-Lee Codd Diffie Dijkstra Goldwasser Hamilton Hoare Hopper Johnson Kay "
    "Kernighan Knuth Lamarr Lamport Liskov Lovelace McCarthy Milner Noether Perlman Ritchie "
    "Sutherland Thompson Turing Wirth"
)
_CITY = _words(
    "Aarhus Bern Bologna Cork Delft Evora Freiburg Gdansk Ghent Graz Lund Lyon Malmo Nantes "
    "Olomouc Porto Riga Tartu Turku Utrecht Vilnius Zagreb"
)
_GOODS = _words(
    "adapter anvil basket bearing bracket cable clamp compass crate drill filter flange gasket "
    "gauge hammer hinge lamp lathe magnet motor nozzle pulley pump relay ruler sensor shovel "
    "spring switch valve vise wrench"
)
_WORDS = _words(
    "about after again against all also always another any because been before both call came can "
    "come customer delivery different does door each early evening every first floor from gate "
    "good has have here invoice know last late leave left long made many more morning most must "
    "neighbour never next not number only order other over parcel people please prefers ring same "
    "second shall should some such than that their there they this those through time under until "
    "very wants was well were what when where which while who will with"
)


def mix(number: int, salt: int) -> int:
    """A well-mixed 64-bit value of the two: the finaliser of splitmix64."""
    z = (number * 0x9E3779B97F4A7C15 + salt * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def orders_of(number: int) -> int:
    """How many orders customer `number` has."""
    return 3 + mix(number, 1) % 6


def cents_of(number: int, order: int) -> int:
    """The amount of one order."""
    return 95 + mix(number, 100 + order) % 100_000


def customer_json(number: int) -> str:
    """The JSON document of customer `number`, as another service would have sent it."""
    a, b, c = mix(number, 2), mix(number, 3), mix(number, 4)
    first, last = _FIRST[a % len(_FIRST)], _LAST[a // 64 % len(_LAST)]
    city = _CITY[b % len(_CITY)]
    orders = ", ".join(_order_json(number, k) for k in range(orders_of(number)))
    tags = ", ".join(f'"{_GOODS[(c >> 5 * k) % len(_GOODS)]}"' for k in range(c % 5))
    note = " ".join(_WORDS[mix(number, 50 + k) % len(_WORDS)] for k in range(6 + b % 19))
    return (
        f'{{"id": {number}, "name": "{first} {last}", "email": "{last.lower()}.{number}@example.org", '
        f'"joined": "20{10 + a % 15:02}-{1 + b % 12:02}-{1 + c % 28:02}", '
        f'"active": {"true" if a & 64 else "false"}, '
        f'"rating": {b % 500 / 100}, "token": "{c:016x}", '
        f'"address": {{"street": "{last}straat {b % 300}", "zip": "{10000 + c % 89999}", "city": "{city}", '
        f'"position": [{c % 18000 / 100 - 90}, {a % 36000 / 100 - 180}]}}, '
        f'"tags": [{tags}], "note": "{note}", "orders": [{orders}]}}'
    )


def _order_json(number: int, order: int) -> str:
    a = mix(number, 200 + order)
    return (
        f'{{"order": {number * 16 + order}, "sku": "{_GOODS[a % len(_GOODS)]}-{a >> 40:06x}", '
        f'"quantity": {1 + a % 9}, "cents": {cents_of(number, order)}, '
        f'"shipped": {"null" if a & 7 == 7 else "true"}, "at": {1500000000 + (a >> 12) % 200000000}}}'
    )


def total_cents(items: int) -> int:
    """What all orders of customers 0 to `items` (exclusive) come to."""
    return sum(cents_of(n, k) for n in range(items) for k in range(orders_of(n)))
