//go:build tools

// Package parts pins the flannel CNI plugin, last published in this release of the CNI plugins, that capn builds from source; it is never compiled itself.
package parts

import (
	_ "github.com/containernetworking/plugins/plugins/meta/flannel"
)
