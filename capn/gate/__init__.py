"""One port that leads to every child's API server, by the name that a client asks for in TLS."""
