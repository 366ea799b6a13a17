"""Reconcilers: ordered short phases over a scope, then a status that is computed apart."""
