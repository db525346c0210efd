// Package localpostgres runs a PostgreSQL server of one's own on this machine: for `sluice dev`, which needs no cluster and
// no root, and for tests, which use a real server each.
//
// A server is the child of the process that started it and ends with it, also when that process is killed. It listens on
// loopback only. PostgreSQL refuses to run as root; started by root, the server runs as the user postgres (or nobody).
package localpostgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/pgconfig"
	"github.com/sluice-project/sluice/internal/ports"
)

// Options of a server.
type Options struct {
	// BinDir holds initdb and postgres; Find tells where they are.
	BinDir string
	// DataDir is made by initdb when it holds no cluster yet.
	DataDir string
	// Port to listen on; 0 picks a free one between 20000 and 31999.
	Port int
	// Settings are passed as `-c name=value`.
	Settings map[string]string
}

// Server is a running PostgreSQL.
type Server struct {
	options Options
	cmd     *exec.Cmd
	ended   chan struct{}
	err     error
}

// Start makes the data directory where there is none, starts the server and waits until it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	account, err := unprivileged()
	if err != nil {
		return nil, err
	}
	if err := initialise(ctx, o, account); err != nil {
		return nil, err
	}
	if o.Port != 0 {
		return startOn(ctx, o, account)
	}
	return startOnAny(ctx, o, account, FreePort)
}

// startOnAny starts the server on a port that pick returns. It picks again, some times, if somebody
// else was quicker to listen there.
func startOnAny(ctx context.Context, o Options, account *account, pick func() (int, error)) (s *Server, err error) {
	for range 10 {
		if o.Port, err = pick(); err != nil {
			return nil, err
		}
		var taken *ports.InUseError
		if s, err = startOn(ctx, o, account); !errors.As(err, &taken) {
			return s, err
		}
	}
	return nil, err
}

// startOn starts the server on its port. If another process listens there, the error is a
// [ports.InUseError] that names it.
func startOn(ctx context.Context, o Options, account *account) (*Server, error) {
	s := &Server{options: o, ended: make(chan struct{})}
	if err := ports.CheckFree(s.address()); err != nil {
		return nil, err
	}
	if err := s.launch(account); err != nil {
		return nil, err
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(err, s.Stop(), s.lostPort(err))
	}
	return s, nil
}

// lostPort explains that the server ended because somebody listened on its port after it was found
// free.
func (s *Server) lostPort(ended error) error {
	if !strings.Contains(ended.Error(), "Address already in use") {
		return nil
	}
	holders, err := ports.Holders(s.address())
	return errors.Join(err, &ports.InUseError{Address: s.address(), Holders: holders})
}

func (s *Server) address() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.options.Port))
}

// URL of a database of this server, for its superuser.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.options.Port, database)
}

// Port on which the server listens.
func (s *Server) Port() int { return s.options.Port }

// DataDir of the server.
func (s *Server) DataDir() string { return s.options.DataDir }

// Ended is closed when the server process has ended, whatever ended it.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// Stop ends the server, rolling back what is open, and waits until it has ended.
func (s *Server) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping PostgreSQL: %w", err)
	}
	select {
	case <-s.ended:
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(fmt.Errorf("PostgreSQL did not stop within 20 s, killed"), s.cmd.Process.Kill())
	}
}

// Crash ends the server as a crash does, and waits until it has ended: what is not on disk is lost, or where it does not sync, what it has not given
// to the operating system. [Server.Restart] recovers it.
func (s *Server) Crash() error {
	if err := s.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		return fmt.Errorf("crashing PostgreSQL: %w", err)
	}
	select {
	case <-s.ended:
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(fmt.Errorf("PostgreSQL did not end within 20 s, killed"), s.cmd.Process.Kill())
	}
}

// Restart stops the server and starts another on the same port and data.
func (s *Server) Restart(ctx context.Context) (*Server, error) {
	if err := s.Stop(); err != nil {
		return nil, err
	}
	return Start(ctx, s.options)
}

// initialise runs initdb unless the directory holds a database cluster already.
func initialise(ctx context.Context, o Options, account *account) error {
	if _, err := os.Stat(filepath.Join(o.DataDir, "PG_VERSION")); err == nil {
		return nil
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	if err := account.own(o.DataDir); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(o.BinDir, "initdb"), "-D", o.DataDir, "-U", "postgres",
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	cmd.Dir = o.DataDir
	cmd.Env = environment()
	cmd.SysProcAttr = account.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb in %s: %w\n%s", o.DataDir, err, out)
	}
	return nil
}

// environment is this process's, without the variables that PostgreSQL's programs read: they are
// meant for other servers.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, pgconfig.Prefix) })
}

// launch starts the process. The thread that starts it is kept for as long as it runs: the kernel ties the signal that a
// child gets at its parent's death to that thread.
func (s *Server) launch(account *account) error {
	args := []string{"-D", s.options.DataDir, "-p", strconv.Itoa(s.options.Port), "-h", "127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "logging_collector=off"}
	for name, value := range s.options.Settings {
		args = append(args, "-c", name+"="+value)
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the server's log: %w", err)
	}
	s.cmd = exec.Command(filepath.Join(s.options.BinDir, "postgres"), args...)
	s.cmd.Dir = s.options.DataDir
	s.cmd.Env = environment()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = account.attributes()
	dieWithParent(s.cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.err = s.cmd.Wait()
			close(s.ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", s.cmd.Path, err)
	}
	return nil
}

func (s *Server) logFile() string { return s.options.DataDir + ".log" }

func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	go func() {
		select {
		case <-s.ended: // whoever has the port instead may never answer
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		select {
		case <-s.ended:
			return fmt.Errorf("PostgreSQL ended while it started (%w); its log says:\n%s", s.err, tail(s.logFile()))
		default:
		}
		if ctx.Err() != nil {
			return fmt.Errorf("PostgreSQL does not answer: %w; its log says:\n%s", err, tail(s.logFile()))
		}
	}
}

// answers returns nil when this server does: another one may have taken the port.
func (s *Server) answers(ctx context.Context) error {
	config, err := pgconfig.New()
	if err != nil {
		return err
	}
	c := config.ConnConfig
	c.Host, c.Port, c.Database, c.User = "127.0.0.1", uint16(s.options.Port), "postgres", "postgres"
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	var dir string
	err = errors.Join(conn.QueryRow(ctx, "SHOW data_directory").Scan(&dir), conn.Close(ctx))
	if err == nil && dir != s.options.DataDir {
		err = fmt.Errorf("port %d is that of a server on %s", s.options.Port, dir)
	}
	return err
}

func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// nextPort differs from call to call: between the look for a free port and the server's own bind, another one may look.
var nextPort atomic.Int64

// FreePort returns a port of 127.0.0.1 that nobody listens on. It looks below the range from which kernels hand out ports for outgoing connections.
func FreePort() (int, error) {
	for range 2000 {
		port := 20000 + (os.Getpid()+int(nextPort.Add(1))*7)%12000
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port between 20000 and 31999 on 127.0.0.1")
}
