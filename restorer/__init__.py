# SPDX-License-Identifier: Apache-2.0
"""Checkpoint a live Linux process into a compressed store, and restore it at once, its memory on demand."""

__version__ = "0.1.0"
