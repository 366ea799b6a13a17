"""`python -m capn`: the same as the `capn` command."""

from __future__ import annotations

from capn.cli.app import main

main()
