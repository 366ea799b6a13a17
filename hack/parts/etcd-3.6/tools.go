//go:build tools

// Package parts pins the etcd programs that capn builds from source; it is never compiled itself.
package parts

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/etcdutl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
