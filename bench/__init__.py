"""Benchmarks B1, B2, B3 and B6: capn beside a floor and beside kopf, on a real API server."""
