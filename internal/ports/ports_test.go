//go:build linux

package ports_test

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-project/sluice/internal/ports"
)

func listen(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestCheckFreeNamesTheProcessThatListens(t *testing.T) {
	for name, at := range map[string]struct{ network, address string }{
		"the address itself":     {"tcp4", "127.0.0.1:0"},
		"all addresses":          {"tcp4", "0.0.0.0:0"},
		"all addresses, by IPv6": {"tcp", "[::]:0"},
	} {
		t.Run(name, func(t *testing.T) {
			address := "127.0.0.1:" + listen(t, at.network, at.address)
			err := ports.CheckFree(address)
			if err == nil {
				t.Fatal("a port on which this test listens is said to be free")
			}
			for _, part := range []string{address, "process " + strconv.Itoa(os.Getpid()), "ports.test"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
		})
	}
}

func TestCheckFreeAcceptsWhatOthersDoNotHold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if err := ports.CheckFree(address); err != nil {
		t.Error(err)
	}
	port := listen(t, "tcp", "127.0.0.1:0")
	if err := ports.CheckFree("127.0.0.2:" + port); err != nil {
		t.Errorf("only 127.0.0.1 has the port: %v", err)
	}
	if err := ports.CheckFree("192.0.2.1:" + port); err == nil || strings.Contains(err.Error(), "in use") {
		t.Errorf("an address that this machine does not have: %v", err)
	}
}

func TestHoldersPrefersTheProcessOfTheAddressToThatOfAllAddresses(t *testing.T) {
	port := listen(t, "tcp4", "127.0.0.1:0")
	got, err := ports.Holders("127.0.0.1:" + port)
	if err != nil || len(got) != 1 || got[0].PID != os.Getpid() {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := ports.Holders("127.0.0.2:" + port); err != nil || len(got) != 0 {
		t.Errorf("on another address: %v, %v", got, err)
	}
	if got, err := ports.Holders(":" + port); err != nil || len(got) != 1 {
		t.Errorf("of the port, whatever the address: %v, %v", got, err)
	}
}
