# SPDX-License-Identifier: Apache-2.0
"""One kind of state, one module.

A dataclass, `capture` that reads it from a frozen process, `emit` that writes the ops which put it back.
"""
