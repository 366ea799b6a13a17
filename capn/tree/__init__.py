"""The tree of clusters, at every depth: read, drawn, walked and explained. Only reads."""
