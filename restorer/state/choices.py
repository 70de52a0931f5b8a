# SPDX-License-Identifier: Apache-2.0
"""What the user lets become of connections that lead out of the tree."""

from __future__ import annotations

from restorer.firewall import Firewall
from restorer.record import dataclass


@dataclass(frozen=True)
class Choices:
    """Without any, such connections are refused.

    `tcp_close`: TCP connections are taken as connections the peer has reset; with a `firewall`, which blocks
    them, as they are. `ext_unix`: unix sockets are connected anew to names outside, those accepted from
    outside are closed. `skip_in_flight`: what waits to be accepted or read, and cannot be kept, is lost.
    """

    tcp_close: bool = False
    firewall: Firewall | None = None
    ext_unix: bool = False
    skip_in_flight: bool = False


NONE = Choices()
