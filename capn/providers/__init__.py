"""Providers: what makes and keeps machines, behind one Protocol."""
