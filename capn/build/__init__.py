"""Pure desired state: kubeadm configuration, cloud-init, PKI, Secrets, machines, hypervisor objects."""
