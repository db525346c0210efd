//go:build linux

package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-project/sluice/hack/cluster/internal/cgroup"
)

// StageCommand is the hidden command by which this program, started again, becomes the process of a Spec.
const StageCommand = "__start"

// Spec says what to start and how.
type Spec struct {
	Name       string
	Args       []string // the program by its whole path, and its arguments
	Env        []string
	PIDFile    string
	Log        string // appended to
	Cgroup     string // below every hierarchy; so the process is not ended together with its starter's
	UID, GID   uint32 // 0 is root
	Namespaces uintptr
	// Inside, if not empty, makes the process run this hidden command of this program with Args as its arguments
	// instead of replacing itself.
	Inside string
}

// Running is a process that was just started by this one.
type Running struct {
	Identity
	spec   Spec
	exited chan error
}

// Start starts the program in a session of its own. When it returns without an error, the process is in its cgroup and
// its identity on disk. The files in hold stay open in the child until then: give it the lock under which Start is
// called, and whoever takes that lock next finds the identity written, even if this process is killed in between.
func Start(spec Spec, hold ...*os.File) (*Running, error) {
	content, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	defer log.Close()
	if err := os.Remove(spec.PIDFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	cmd := exec.Command("/proc/self/exe", StageCommand, string(content))
	cmd.Args[0] = "sluice-cluster"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = hold
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: spec.Namespaces}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	r := &Running{spec: spec, exited: make(chan error, 1)}
	go func() { r.exited <- cmd.Wait() }()
	return r, r.Await("its identity on disk", 10*time.Second, func() bool {
		id, err := ReadFile(spec.PIDFile)
		if err != nil || id.PID != cmd.Process.Pid {
			return false
		}
		r.Identity = id
		return true
	})
}

// Await waits until ready says true. It fails with the end of the process's log when the process ends first or limit
// passes.
func (r *Running) Await(what string, limit time.Duration, ready func() bool) error {
	deadline := time.After(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		answers := ready()
		select { // if it has ended, somebody else answered
		case err := <-r.exited:
			r.exited <- err
			return fmt.Errorf("%s ended (%v) before %s; the end of %s:\n%s", r.spec.Name, err, what, r.spec.Log, Tail(r.spec.Log, 15))
		default:
		}
		if answers {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-r.exited:
			r.exited <- err
		case <-deadline:
			return fmt.Errorf("%s does not show %s within %s; the end of %s:\n%s", r.spec.Name, what, limit, r.spec.Log, Tail(r.spec.Log, 15))
		}
	}
}

// Stage runs in the child. It returns the arguments for the hidden command spec.Inside; without one it does not return
// but replaces this program by the one that the Spec names.
func Stage(encoded string) (inside string, args []string, err error) {
	var spec Spec
	if err := json.Unmarshal([]byte(encoded), &spec); err != nil {
		return "", nil, fmt.Errorf("reading the specification: %w", err)
	}
	if err := cgroup.Join(spec.Cgroup); err != nil {
		return "", nil, err
	}
	if err := recordSelf(spec.PIDFile); err != nil {
		return "", nil, fmt.Errorf("recording the identity: %w", err)
	}
	closeInherited()
	if spec.Inside != "" {
		return spec.Inside, spec.Args, nil
	}
	if spec.GID != 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(int(spec.GID))); err != nil {
			return "", nil, fmt.Errorf("becoming group %d: %w", spec.GID, err)
		}
	}
	if spec.UID != 0 {
		if err := syscall.Setuid(int(spec.UID)); err != nil {
			return "", nil, fmt.Errorf("becoming user %d: %w", spec.UID, err)
		}
	}
	return "", nil, fmt.Errorf("executing %s: %w", spec.Args[0], syscall.Exec(spec.Args[0], spec.Args, spec.Env))
}

// recordSelf writes the identity as the starter sees it. In a new PID namespace getpid says 1, but /proc is still the
// starter's.
func recordSelf(path string) error {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(self, &pid); err != nil {
		return fmt.Errorf("reading /proc/self: %w", err)
	}
	id, err := Identify(pid)
	if err != nil {
		return err
	}
	return id.writeFile(path)
}

// closeInherited lets go of what Start was told to hold. Descriptors of the Go runtime close themselves on exec.
func closeInherited() {
	for fd := 3; fd < 8; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// Tail returns the last lines of a file, or why it cannot.
func Tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
