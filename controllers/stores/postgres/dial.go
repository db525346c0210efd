package postgres

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// RefusedAddressError says that the operator may not connect to an address; workers may.
type RefusedAddressError struct{ Address string }

func (e *RefusedAddressError) Error() string {
	return fmt.Sprintf("the operator does not connect to %s: loopback and link-local addresses and sockets are those of its own pod and node", e.Address)
}

// dialer connects to PostgreSQL. Addresses are looked at when names have been resolved, so no name leads around the rule.
func dialer(allowLoopback bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3}}
	if !allowLoopback {
		d.Control = func(network, address string, _ syscall.RawConn) error {
			if refused(network, address) {
				return &RefusedAddressError{address}
			}
			return nil
		}
	}
	return d.DialContext
}

func refused(network, address string) bool {
	if !strings.HasPrefix(network, "tcp") {
		return true
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return true
	}
	ip := to.Addr().Unmap()
	return ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast()
}
