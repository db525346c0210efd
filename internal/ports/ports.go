// Package ports finds out which process listens on a TCP port of this machine, so that tools
// neither use a server that is not theirs nor fail without naming what is in their way.
package ports

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// Process listens on a port.
type Process struct {
	PID     int // 0 if this process may not see it: it runs in a container or belongs to another user
	Command string
	UID     int
}

func (p Process) String() string {
	if p.PID == 0 {
		return fmt.Sprintf("a process of user %d that is not visible from here", p.UID)
	}
	return fmt.Sprintf("process %d (%s)", p.PID, p.Command)
}

// CheckFree returns an error that names every address, as host:port, on which this process cannot
// listen because another one does, and the process that does.
func CheckFree(addresses ...string) error {
	var errs []error
	for _, address := range addresses {
		listener, err := net.Listen("tcp", address)
		if err == nil {
			errs = append(errs, listener.Close())
			continue
		}
		if !inUse(err) {
			errs = append(errs, fmt.Errorf("port %s: %w", address, err))
			continue
		}
		holders, err := Holders(address)
		errs = append(errs, err, &InUseError{Address: address, Holders: holders})
	}
	return errors.Join(errs...)
}

// InUseError says that somebody else listens on an address.
type InUseError struct {
	Address string
	Holders []Process
}

func (e *InUseError) Error() string {
	names := make([]string, len(e.Holders))
	for i, p := range e.Holders {
		names[i] = p.String()
	}
	by := strings.Join(names, ", ")
	if by == "" {
		by = "another process"
	}
	return fmt.Sprintf("port %s is in use by %s", e.Address, by)
}
