# SPDX-License-Identifier: Apache-2.0
"""`restorer check`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from restorer import report
from restorer.cli.options import JsonOption, StoreOption
from restorer.probe import Feature, probe_all


def command(json: JsonOption = False, store: StoreOption = None) -> None:
    """Tell what this kernel and these privileges allow, and what a lack costs; exit 1 where all is lost."""
    del store  # every command takes it; this one looks at no store
    features = probe_all()
    usable = all(feature.present for feature in features if feature.required)
    if json:
        rows = [asdict(feature) for feature in features]
        print(report.document("check", {"usable": usable, "features": rows}))
    else:
        print(report.table(("FEATURE", "STATE", "REMARK"), [_row(feature) for feature in features]))
    if not usable:
        raise typer.Exit(1)


def _row(feature: Feature) -> tuple[str, str, str]:
    if feature.present:
        return feature.name, "ok", feature.detail
    return feature.name, "MISSING" if feature.required else "absent", feature.lack
