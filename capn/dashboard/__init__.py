"""The tree as a live page: `capn dashboard`."""
