"""Machines as KubeVirt VMs, in this cluster or another."""
