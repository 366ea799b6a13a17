"""Machines of a child, claimed from its parent."""
