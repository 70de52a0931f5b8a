# SPDX-License-Identifier: Apache-2.0
"""The measurements of README.md, run by `python -m bench`: medians of interleaved rounds."""
