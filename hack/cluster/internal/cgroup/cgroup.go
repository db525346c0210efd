//go:build linux

// Package cgroup makes, joins, empties and removes one path in every control group hierarchy of the machine, be it
// version 1, version 2 or both.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted tree of control groups.
type hierarchy struct {
	mount  string
	v2     bool
	cpuset bool // version 1 only: a new group has no processors and no memory until told
}

func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("looking for control groups: %w", err)
	}
	defer f.Close()
	var found []hierarchy
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if h, ok := parseMount(lines.Text()); ok {
			found = append(found, h)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no control groups are mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return found, nil
}

// parseMount reads a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
func parseMount(line string) (hierarchy, bool) {
	left, right, found := strings.Cut(line, " - ")
	before, after := strings.Fields(left), strings.Fields(right)
	if !found || len(before) < 5 || len(after) < 3 {
		return hierarchy{}, false
	}
	switch after[0] {
	case "cgroup2":
		return hierarchy{mount: before[4], v2: true}, true
	case "cgroup":
		return hierarchy{mount: before[4], cpuset: slices.Contains(strings.Split(after[2], ","), "cpuset")}, true
	}
	return hierarchy{}, false
}

// Create makes path in every hierarchy. With delegate, groups with limits can be made below it, and so no process may
// be put into it itself (the rule of version 2).
func Create(path string, delegate bool) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := h.create(path, delegate); err != nil {
			return fmt.Errorf("making control group %s in %s: %w", path, h.mount, err)
		}
	}
	return nil
}

func (h hierarchy) create(path string, delegate bool) error {
	dir := h.mount
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		if h.v2 {
			if err := enableControllers(dir); err != nil {
				return err
			}
		}
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if h.cpuset {
			if err := inheritCPUSet(parent, dir); err != nil {
				return err
			}
		}
	}
	if h.v2 && delegate {
		return enableControllers(dir)
	}
	return nil
}

// enableControllers passes every controller that dir has on to its children.
func enableControllers(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(available)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("enabling %s below %s: %w", c, dir, err)
		}
	}
	return nil
}

func inheritCPUSet(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		current, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(current)) != "" {
			continue
		}
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
			return err
		}
	}
	return nil
}

// Join moves this process into path, in every hierarchy.
func Join(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := os.WriteFile(filepath.Join(h.mount, path, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("joining control group %s: %w", path, err)
		}
	}
	return nil
}

// Processes returns the numbers of all processes in path and below.
func Processes(path string) ([]int, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, h := range all {
		err := filepath.WalkDir(filepath.Join(h.mount, path), func(file string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.Name() != "cgroup.procs" {
				return err
			}
			content, err := os.ReadFile(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				return err
			}
			for _, field := range strings.Fields(string(content)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("listing the processes of control group %s: %w", path, err)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// Kill ends all processes in path and below with SIGKILL and waits until they are gone, at most limit.
func Kill(path string, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		pids, err := Processes(path)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of control group %s do not end", pids, path)
		}
		for _, pid := range pids {
			if pid == os.Getpid() {
				return fmt.Errorf("this process is itself in control group %s: run it from outside", path)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("killing process %d: %w", pid, err)
			}
		}
	}
}

// Remove removes path and everything below from every hierarchy. No process may be in it.
func Remove(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(h.mount, path), func(dir string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				dirs = append(dirs, dir)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("removing control group %s: %w", path, err)
		}
		for _, dir := range slices.Backward(dirs) {
			if err := removeDir(dir); err != nil {
				return fmt.Errorf("removing control group %s: %w", path, err)
			}
		}
	}
	return nil
}

// removeDir tries for a while: a group stays busy for a moment after its last process has gone.
func removeDir(dir string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}

// Contains says whether process pid is in path or below, in any hierarchy.
func Contains(path string, pid int) bool {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for _, line := range strings.Split(string(content), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) == 3 && (parts[2] == path || strings.HasPrefix(parts[2], path+"/")) {
			return true
		}
	}
	return false
}
