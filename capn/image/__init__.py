"""Node images: a Debian root file system with Kubernetes and every container image that a node needs, ready to boot."""
