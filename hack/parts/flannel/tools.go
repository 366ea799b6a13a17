//go:build tools

// Package parts pins flannel that capn builds from source; it is never compiled itself.
package parts

import (
	_ "github.com/flannel-io/flannel"
)
