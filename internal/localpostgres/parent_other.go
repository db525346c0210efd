//go:build !linux

package localpostgres

import "syscall"

// dieWithParent does nothing: only Linux tells a child of its parent's death. The next start on the same data directory
// finds the old server by its lock file and says so.
func dieWithParent(*syscall.SysProcAttr) {}
