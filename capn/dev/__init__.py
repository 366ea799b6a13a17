"""Development environments: embedded parent, private hypervisor, the demo."""
