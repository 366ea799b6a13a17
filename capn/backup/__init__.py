"""Places for snapshots of children's etcd: a directory, an S3-compatible store."""
