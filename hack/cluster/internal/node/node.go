//go:build linux

// Package node is the first process of a node: a node is a set of namespaces, and this is what holds them.
//
// It runs as PID 1 of a PID namespace, starts the node's daemons, starts a daemon again that ended, and collects
// orphans. The kernel ends everything in the namespace together with it, and its mount namespace goes with the last
// process; so a node is switched off by one SIGKILL and leaves no process and no mount.
package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is the hidden command of this program that runs a node; its argument is the path of a Config in JSON.
const Command = "__node"

// Config is what a node consists of.
type Config struct {
	Hostname string
	Address  string // the daemons start when an interface has it
	Mounts   []Mount
	Daemons  []Daemon
}

// Mount puts the folder Source at Target, which has to exist. An empty Source mounts an empty tmpfs.
type Mount struct{ Source, Target string }

// Daemon is a program that always runs.
type Daemon struct {
	Name  string
	Args  []string
	Env   []string
	Log   string
	After string // a path that has to exist first
}

// Run runs the node and returns only with an error.
func Run(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c Config
	if err := json.Unmarshal(content, &c); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if os.Getpid() != 1 {
		return errors.New("a node runs as PID 1 of a namespace of its own")
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if err := mountAll(c.Mounts); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("enabling forwarding: %w", err)
	}
	s := &supervisor{daemons: map[int]Daemon{}, ended: make(chan Daemon, len(c.Daemons))}
	go s.reap()
	for !hasAddress(c.Address) {
		time.Sleep(50 * time.Millisecond)
	}
	for _, d := range c.Daemons {
		go s.start(d, 0)
	}
	for d := range s.ended {
		fmt.Printf("%s %s ended; starting it again\n", time.Now().Format(time.RFC3339), d.Name)
		go s.start(d, time.Second)
	}
	return nil
}

// mountAll lets mounts of the host through but none of this node's out, and then mounts what is the node's own.
func mountAll(mounts []Mount) error {
	for _, propagation := range []uintptr{unix.MS_SLAVE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", propagation|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("separating the mounts: %w", err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	return nil
}

func (m Mount) mount() error {
	if m.Source == "" {
		return unix.Mount("tmpfs", m.Target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	}
	return unix.Mount(m.Source, m.Target, "", unix.MS_BIND|unix.MS_REC, "")
}

func hasAddress(address string) bool {
	addresses, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addresses, func(a net.Addr) bool {
		ip, ok := a.(*net.IPNet)
		return ok && ip.IP.Equal(net.ParseIP(address))
	})
}

// supervisor starts daemons and learns of their end. All children are collected in one place, because as PID 1 it gets
// orphans too, which it never started.
type supervisor struct {
	mu      sync.Mutex
	daemons map[int]Daemon // by PID
	ended   chan Daemon
}

func (s *supervisor) start(d Daemon, delay time.Duration) {
	time.Sleep(delay)
	for d.After != "" {
		if _, err := os.Stat(d.After); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := s.spawn(d); err != nil {
		fmt.Printf("starting %s: %v\n", d.Name, err)
		s.ended <- d
	}
}

func (s *supervisor) spawn(d Daemon) error {
	if err := os.MkdirAll(filepath.Dir(d.Log), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.mu.Lock() // so that the daemon is known before its end can be
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(d.Args[0], d.Args, &syscall.ProcAttr{
		Dir: "/", Env: d.Env, Files: []uintptr{0, log.Fd(), log.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	s.daemons[pid] = d
	return nil
}

// reap collects every child that ends.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if err != nil {
			continue
		}
		s.mu.Lock()
		d, known := s.daemons[pid]
		delete(s.daemons, pid)
		s.mu.Unlock()
		if known {
			s.ended <- d
		}
	}
}
