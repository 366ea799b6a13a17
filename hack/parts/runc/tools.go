//go:build tools

// Package parts pins runc that capn builds from source; it is never compiled itself.
package parts

import (
	_ "github.com/opencontainers/runc"
)
