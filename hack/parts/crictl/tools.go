//go:build tools

// Package parts pins crictl that capn builds from source; it is never compiled itself.
package parts

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
)
