package postgres

import (
	"errors"
	"net"
	"testing"
)

func TestRefusedAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:5432": true, "[::1]:5432": true, "[::ffff:127.0.0.1]:5432": true, "169.254.169.254:80": true, "[fe80::1%eth0]:5432": true,
		"0.0.0.0:5432": true, "224.0.0.1:5432": true, "somewhere": true, "10.0.0.1:5432": false, "[2001:db8::1]:5432": false,
	} {
		if got := refused("tcp4", address); got != want {
			t.Errorf("%s: refused %v", address, got)
		}
	}
	if !refused("unix", "/var/run/postgresql/.s.PGSQL.5432") {
		t.Error("a socket was not refused")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var refusal *RefusedAddressError
	if _, err := dialer(false)(t.Context(), "tcp", listener.Addr().String()); !errors.As(err, &refusal) {
		t.Errorf("dialling loopback gave %v", err)
	}
}
