package postgres

import (
	"errors"
	"strings"
	"syscall"
)

// tcpUserTimeout is the option TCP_USER_TIMEOUT of tcp(7), in milliseconds.
const tcpUserTimeout = 18

// giveUpUnheard bounds how long data that was sent may stay unacknowledged: keepalives probe only connections at rest.
func giveUpUnheard(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var set error
	err := c.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(unheard.Milliseconds()))
	})
	return errors.Join(err, set)
}
