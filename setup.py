# SPDX-License-Identifier: Apache-2.0
"""Builds what pyproject.toml cannot say: the cffi module, and the launcher that goes beside the scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

from distutils.command.build_scripts import build_scripts  # isort: skip  # setuptools' own copy, once it is imported

ROOT = Path(__file__).resolve().parent
LAUNCHER = ROOT / "native" / "build" / "restorer-launch"
HEADERS = {
    "zstd.h": "libzstd-dev",
    "lz4.h": "liblz4-dev",
    "xxhash.h": "libxxhash-dev",
    "lmdb.h": "liblmdb-dev",
}
ARCHIVES = {"libzstd.a": "libzstd-dev", "liblz4.a": "liblz4-dev", "liblmdb.a": "liblmdb-dev"}


def _finds_header(compiler: str, header: str) -> bool:
    source = f"#include <{header}>\n".encode()
    done = subprocess.run([compiler, "-E", "-x", "c", "-"], input=source, capture_output=True, check=False)
    return done.returncode == 0


def _finds_archive(compiler: str, archive: str) -> bool:
    # gcc prints the bare name of a library it does not find.
    done = subprocess.run(
        [compiler, f"-print-file-name={archive}"], capture_output=True, text=True, check=False
    )
    return os.path.isabs(done.stdout.strip())


def check_libraries() -> None:
    """Ends the build with one line naming the Debian packages that are missing."""
    compiler = os.environ.get("CC", "cc")
    if not shutil.which(compiler) or not shutil.which("make"):
        sys.exit("restorer needs a C compiler and make: apt-get install build-essential")
    absent = {package for header, package in HEADERS.items() if not _finds_header(compiler, header)}
    absent |= {package for archive, package in ARCHIVES.items() if not _finds_archive(compiler, archive)}
    if absent:
        sys.exit(f"restorer needs libraries: apt-get install {' '.join(sorted(absent))}")


class BuildScripts(build_scripts):
    """The scripts, and beside them the launcher: pip installs what lies there, script or not."""

    def run(self) -> None:
        check_libraries()
        if subprocess.run(["make", "-C", str(ROOT / "native")], check=False).returncode != 0:
            sys.exit("restorer: the launcher does not build; make's own messages stand above")
        super().run()
        target = Path(self.build_dir) / LAUNCHER.name
        shutil.copy2(LAUNCHER, target)
        target.chmod(0o755)


setup(
    cffi_modules=["restorer/native_build.py:ffibuilder"],
    scripts=["scripts/restorer"],
    cmdclass={"build_scripts": BuildScripts},
)
