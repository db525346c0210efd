package localpostgres

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluice-project/sluice/internal/ports"
)

func TestAServerTakesAnotherPortIfSomebodyElseIsQuicker(t *testing.T) {
	bin, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sluice-localpostgres-test-") // t.TempDir's cannot be entered by the server's user
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	account, err := unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{BinDir: bin, DataDir: filepath.Join(dir, "data")}
	if err := initialise(context.Background(), o, account); err != nil {
		t.Fatal(err)
	}
	var quicker net.Listener
	s, err := startOnAny(context.Background(), o, account, func() (int, error) {
		port, err := FreePort()
		if err != nil || quicker != nil {
			return port, err
		}
		quicker, err = net.Listen("tcp", (&Server{options: Options{Port: port}}).address())
		return port, err
	})
	defer quicker.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if s.Port() == quicker.Addr().(*net.TCPAddr).Port {
		t.Errorf("the server says that it listens on port %d, as this test does", s.Port())
	}
}

func TestAServerThatLostItsPortWhileItStartedNamesTheProcessThatHasIt(t *testing.T) {
	quicker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer quicker.Close()
	address := quicker.Addr().(*net.TCPAddr)
	s := &Server{options: Options{Port: address.Port}}
	ended := errors.New(`its log says: could not bind IPv4 address "127.0.0.1": Address already in use`)
	var taken *ports.InUseError
	if err := s.lostPort(ended); !errors.As(err, &taken) || len(taken.Holders) != 1 || taken.Holders[0].PID != os.Getpid() {
		t.Errorf("got %v", err)
	}
	if err := s.lostPort(errors.New("its log says: out of memory")); err != nil {
		t.Errorf("another failure: %v", err)
	}
}
