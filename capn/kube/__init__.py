"""Talk to Kubernetes APIs: parent and child, real and simulated."""
