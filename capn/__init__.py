"""capn: Kubernetes clusters inside a Kubernetes cluster."""

__version__ = "0.1.0"
