"""The `capn` command: the only composition root."""
