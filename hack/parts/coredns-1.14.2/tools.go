//go:build tools

// Package parts pins CoreDNS that capn builds from source; it is never compiled itself.
package parts

import (
	_ "github.com/coredns/coredns"
)
