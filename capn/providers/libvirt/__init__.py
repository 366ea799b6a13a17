"""Machines in libvirt, local or remote, by libvirt's API alone."""
