//go:build !linux

package lab

import (
	"errors"
	"fmt"
)

// OneCPU needs Linux.
func OneCPU() error { return fmt.Errorf("running on one CPU: %w", errors.ErrUnsupported) }
