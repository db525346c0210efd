//go:build linux

// Package process starts programs that outlive their starter, finds them again, and ends them.
//
// A process is known by its number, its start time and the boot in which it ran. A number alone is given to another
// process sooner or later; with all three, nothing that somebody else started is ever signalled.
package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Identity names one process for good.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks from boot to the start of the process, field 22 of /proc/PID/stat
	Boot  string `json:"boot"`  // /proc/sys/kernel/random/boot_id
}

// BootID names the current boot of the machine.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

// Identify returns the identity of the running process pid.
func Identify(pid int) (Identity, error) {
	stat, err := readStat(strconv.Itoa(pid))
	if err != nil {
		return Identity{}, err
	}
	boot, err := BootID()
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, Start: stat.start, Boot: boot}, nil
}

// Alive says whether the process still runs. A zombie does not.
func (i Identity) Alive() bool {
	boot, err := BootID()
	if err != nil || boot != i.Boot || i.PID <= 0 {
		return false
	}
	stat, err := readStat(strconv.Itoa(i.PID))
	return err == nil && stat.start == i.Start && stat.state != 'Z' && stat.state != 'X'
}

// Signal sends sig and says false if the process is gone already. The number cannot change hands in between: a pidfd
// holds on to the process while its start time is compared.
func (i Identity) Signal(sig unix.Signal) (bool, error) {
	fd, err := unix.PidfdOpen(i.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("opening process %d: %w", i.PID, err)
	}
	defer unix.Close(fd)
	if !i.Alive() {
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("signalling process %d: %w", i.PID, err)
	}
	return true, nil
}

// Stop asks the process to end with sig, and kills it when it has not done so within grace.
func (i Identity) Stop(sig unix.Signal, grace time.Duration) error {
	for _, attempt := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{sig, grace}, {unix.SIGKILL, 10 * time.Second}} {
		running, err := i.Signal(attempt.signal)
		if err != nil {
			return err
		}
		if !running || i.waitGone(attempt.wait) {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end, not even by SIGKILL", i.PID)
}

func (i Identity) waitGone(limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if !i.Alive() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// ReadFile returns the identity that path holds; the zero Identity, which is not alive, when there is no such file.
func ReadFile(path string) (Identity, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Identity{}, nil
	}
	if err != nil {
		return Identity{}, err
	}
	var i Identity
	if err := json.Unmarshal(content, &i); err != nil {
		return Identity{}, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return i, nil
}

// writeFile puts the identity into path, whole or not at all.
func (i Identity) writeFile(path string) error {
	content, err := json.Marshal(i)
	if err != nil {
		return err
	}
	part := path + ".part"
	if err := os.WriteFile(part, content, 0o644); err != nil {
		return err
	}
	return os.Rename(part, path)
}

type stat struct {
	state byte
	start uint64
}

func readStat(pid string) (stat, error) {
	content, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(content))
}

// parseStat reads a line of /proc/PID/stat. The program's name, in brackets, may hold spaces and brackets itself.
func parseStat(line string) (stat, error) {
	_, rest, found := cutLast(line, ") ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 20 {
		return stat{}, fmt.Errorf("not a line of /proc/PID/stat: %q", line)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("reading the start time in %q: %w", line, err)
	}
	return stat{state: fields[0][0], start: start}, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
