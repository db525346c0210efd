//go:build linux

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/cgroup"
	"github.com/sluice-project/sluice/hack/cluster/internal/process"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// postgresCgroup is of its own, so that a server that was killed leaves no worker behind.
const postgresCgroup = cgroupRoot + "/postgres"

// HostURL and PodURL are how the host and pods reach the database.
var (
	HostURL = postgresURL(loopback(PostgresPort))
	PodURL  = postgresURL("postgres.default.svc:5432")
)

func postgresURL(address string) string {
	return "postgres://app:app@" + address + "/app?sslmode=disable"
}

func postgresDir() string { return filepath.Join(Dir, "postgres") }

// Postgres starts a PostgreSQL for the cluster, with a database and a user "app", and gives it a Service. It may run
// already.
func Postgres(ctx context.Context, store *binaries.Store, log *progress.Log) error {
	if err := Supported(); err != nil {
		return err
	}
	if _, found := postgresPrograms(); !found {
		missing := []requirement{{"", "postgresql"}}
		if err := prepare(ctx, store, log, missing, nil); err != nil {
			return err
		}
	}
	c, err := Open(ctx, store, log, false)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := log.Step("PostgreSQL", func() error { return c.startPostgres(ctx) }); err != nil {
		return err
	}
	return log.Step("Service postgres in namespace default", func() error {
		return c.apply(ctx, "postgres.yaml", map[string]any{"Port": PostgresPort, "Address": c.net.host()})
	})
}

// StartPostgres starts the server again on the data it has.
func (c *Cluster) StartPostgres(ctx context.Context) error { return c.startPostgres(ctx) }

// StopPostgres ends the server and keeps the data: with mode "fast" it closes connections and writes a checkpoint, with
// "immediate" it stops as if the machine had failed.
func (c *Cluster) StopPostgres(mode string) error {
	signals := map[string]unix.Signal{"fast": unix.SIGINT, "immediate": unix.SIGQUIT}
	sig, known := signals[mode]
	if !known {
		return fmt.Errorf("the mode is %q; it has to be fast or immediate", mode)
	}
	return c.stopPostgres(sig)
}

func (c *Cluster) stopPostgres(sig unix.Signal) error {
	return errors.Join(stopProcess("postgres", sig), cgroup.Kill(postgresCgroup, 10*time.Second))
}

// RemovePostgres ends the server and deletes its data and its Service.
func (c *Cluster) RemovePostgres(ctx context.Context) error {
	if err := c.stopPostgres(unix.SIGQUIT); err != nil {
		return err
	}
	if err := os.RemoveAll(postgresDir()); err != nil {
		return err
	}
	_, err := c.kubectl(ctx, nil, "delete", "--ignore-not-found", "-n", "default", "service/postgres", "endpointslice/postgres-host")
	return err
}

// postgresPrograms returns the folder of the newest version that Debian's packages installed.
func postgresPrograms() (string, bool) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", false
	}
	newest, number := "", 0
	for _, path := range found {
		bin := filepath.Dir(path)
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(bin))); err == nil && n > number {
			newest, number = bin, n
		}
	}
	return newest, newest != ""
}

// owner is the unprivileged user that Debian's package made; the server refuses to run as root.
func owner() (uid, gid uint32, err error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, fmt.Errorf("looking for the user of the package postgresql: %w", err)
	}
	id, errID := strconv.ParseUint(u.Uid, 10, 32)
	group, errGroup := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(id), uint32(group), errors.Join(errID, errGroup)
}

func (c *Cluster) startPostgres(ctx context.Context) error {
	bin, found := postgresPrograms()
	if !found {
		return errors.New("no PostgreSQL is installed: run `make postgres`")
	}
	current, err := process.ReadFile(pidFile("postgres"))
	if err != nil {
		return err
	}
	uid, gid, err := owner()
	if err != nil {
		return err
	}
	addresses := postgresAddresses(c.net)
	if current.Alive() {
		held, err := heldBy(postgresCgroup, addresses...)
		if err != nil {
			return err
		}
		if !held { // somebody else had an address when it started: PostgreSQL does without
			if err := c.stopPostgres(unix.SIGINT); err != nil {
				return err
			}
		}
	}
	programs := postgresAs{bin: bin, uid: uid, gid: gid}
	if !current.Alive() {
		if err := c.launchPostgres(ctx, programs, addresses); err != nil {
			return err
		}
	}
	if _, err := programs.psql(ctx, createApp, onSocket()...); err != nil {
		return err
	}
	return programs.verify(ctx, addresses)
}

// launchPostgres starts the server and waits until it accepts connections.
func (c *Cluster) launchPostgres(ctx context.Context, p postgresAs, addresses []string) error {
	if err := c.initPostgres(ctx, p.bin, p.uid, p.gid); err != nil {
		return err
	}
	if err := errors.Join(cgroup.Create(postgresCgroup, false), cgroup.Kill(postgresCgroup, 10*time.Second)); err != nil {
		return err
	}
	if err := portsFree(addresses...); err != nil {
		return err
	}
	running, err := process.Start(process.Spec{
		Name: "postgres", Args: append([]string{filepath.Join(p.bin, "postgres")}, postgresArgs(c.net)...),
		Env: append(daemonEnv(), "LANG=C.UTF-8"), PIDFile: pidFile("postgres"), Log: logFile("postgres"),
		Cgroup: postgresCgroup, UID: p.uid, GID: p.gid,
		Namespaces: syscall.CLONE_NEWIPC, // its shared memory goes with it, however it ends
	}, c.lock)
	if err != nil {
		return err
	}
	if err := running.Await("that it accepts connections", time.Minute, func() bool {
		return ctx.Err() != nil || run(ctx, filepath.Join(p.bin, "pg_isready"), append([]string{"-q"}, onSocket()...)...) == nil
	}); err != nil {
		return err
	}
	held, err := heldBy(postgresCgroup, addresses...)
	if err == nil && !held {
		err = fmt.Errorf("PostgreSQL does not listen on %v; the end of %s:\n%s", addresses, logFile("postgres"), process.Tail(logFile("postgres"), 15))
	}
	return errors.Join(err, ctx.Err())
}

// onSocket are the arguments by which programs reach the server that is certainly the cluster's: by
// the socket in its folder.
func onSocket() []string {
	return []string{"-h", filepath.Join(postgresDir(), "run"), "-p", strconv.Itoa(PostgresPort), "-U", "postgres"}
}

// postgresAs runs PostgreSQL's programs as the server's user.
type postgresAs struct {
	bin      string
	uid, gid uint32
}

func (p postgresAs) psql(ctx context.Context, sql string, target ...string) (string, error) {
	args := append([]string{"--quiet", "--no-psqlrc", "--no-align", "--tuples-only", "-v", "ON_ERROR_STOP=1"}, target...)
	return asUser(ctx, p.uid, p.gid, sql, filepath.Join(p.bin, "psql"), args...)
}

// verify asks the server who it is, by its socket and at each address that is given to users: the
// answers have to be the same.
func (p postgresAs) verify(ctx context.Context, addresses []string) error {
	const whoAreYou = `select system_identifier, extract(epoch from pg_postmaster_start_time()) from pg_control_system()`
	own, err := p.psql(ctx, whoAreYou, onSocket()...)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		there, err := p.psql(ctx, whoAreYou, "-d", postgresURL(address))
		if err != nil {
			return fmt.Errorf("the cluster's PostgreSQL does not answer at %s: %w", address, err)
		}
		if there != own {
			return fmt.Errorf("at %s another PostgreSQL answers than the cluster's own: look for a rule of the packet filter that redirects this port", address)
		}
	}
	return nil
}

// createApp may be run again.
const createApp = `
select 'create role app login createdb password ''app''' where not exists (select from pg_roles where rolname = 'app') \gexec
select 'create database app owner app' where not exists (select from pg_database where datname = 'app') \gexec
`

func postgresArgs(n Net) []string {
	settings := []string{
		"listen_addresses=127.0.0.1," + n.host(), fmt.Sprintf("port=%d", PostgresPort), "max_connections=300",
		"unix_socket_directories=" + filepath.Join(postgresDir(), "run"), "hba_file=" + filepath.Join(postgresDir(), "pg_hba.conf"),
		"dynamic_shared_memory_type=sysv", "timezone=UTC", "log_line_prefix=%m [%p] %q%u@%d ",
	}
	args := []string{"-D", filepath.Join(postgresDir(), "data")}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	return args
}

// initPostgres makes the data folder, beside its place until it is whole.
func (c *Cluster) initPostgres(ctx context.Context, bin string, uid, gid uint32) error {
	dir := postgresDir()
	for _, d := range []string{dir, filepath.Join(dir, "run")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := os.Chown(d, int(uid), int(gid)); err != nil {
			return err
		}
	}
	hba := fmt.Sprintf("local all postgres peer\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all %s scram-sha-256\n", c.net.clusterCIDR())
	if err := writeFile(filepath.Join(dir, "pg_hba.conf"), []byte(hba), 0o644); err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if fileExists(data) {
		return nil
	}
	part := data + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if _, err := asUser(ctx, uid, gid, "", filepath.Join(bin, "initdb"), "-D", part, "--username=postgres",
		"--encoding=UTF8", "--locale=C.UTF-8", "--auth=peer"); err != nil {
		return err
	}
	return os.Rename(part, data)
}

// asUser runs a program as another user and returns what it printed.
func asUser(ctx context.Context, uid, gid uint32, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = append(daemonEnv(), "LANG=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	var out strings.Builder
	cmd.Stdout = &out
	err := complete(cmd, []byte(stdin))
	return strings.TrimSpace(out.String()), err
}
