package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cost of a run. CPU time is what other users of the machine disturb least.
type Cost struct {
	Client, Server time.Duration // CPU time of this process, and of all of the server's
	PeakRSS        int64         // of this process, in bytes
}

// Meter measures what is spent from Measure to Stop.
type Meter struct {
	server         int // the postmaster's process
	clientAt, from time.Duration
}

// Measure begins. Memory that this process does not need any more goes back to the system first.
func (s *Server) Measure() (*Meter, error) {
	debug.FreeOSMemory()
	data, err := os.ReadFile(filepath.Join(s.DataDir(), "postmaster.pid"))
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(data), "\n")
	m := &Meter{}
	if m.server, err = strconv.Atoi(first); err != nil {
		return nil, fmt.Errorf("postmaster.pid: %w", err)
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak begins anew
		return nil, err
	}
	m.clientAt, m.from, err = m.read()
	return m, err
}

// Stop returns what has been spent.
func (m *Meter) Stop() (Cost, error) {
	client, server, err := m.read()
	if err != nil {
		return Cost{}, err
	}
	peak, err := peakRSS()
	return Cost{Client: client - m.clientAt, Server: server - m.from, PeakRSS: peak}, err
}

// read returns the CPU times spent so far.
func (m *Meter) read() (client, server time.Duration, err error) {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return 0, 0, err
	}
	for {
		_, ended, err := family(m.server)
		if err != nil {
			return 0, 0, err
		}
		postmaster, err := spentBy(m.server)
		if err != nil {
			return 0, 0, err
		}
		running, err := m.readChildren()
		if err != nil {
			return 0, 0, err
		}
		_, now, err := family(m.server)
		if err != nil {
			return 0, 0, err
		}
		if now == ended { // else one may be counted twice, or not at all
			return time.Duration(own.Utime.Nano() + own.Stime.Nano()), postmaster + ended + running, nil
		}
	}
}

// readChildren returns what the server's processes that run have spent.
func (m *Meter) readChildren() (all time.Duration, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return 0, err
		}
		if parent, _, err := family(pid); err != nil || parent != m.server { // an error: it has ended meanwhile
			continue
		}
		if spent, err := spentBy(pid); err == nil {
			all += spent
		}
	}
	return all, nil
}

// tick is the unit of times in /proc, which is the same on all machines that Go runs on.
const tick = 10 * time.Millisecond

// family returns a process's parent, and the CPU time of its children that have ended.
func family(pid int) (parent int, children time.Duration, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, after, _ := strings.Cut(string(data), ") ") // behind the name
	fields := strings.Fields(after)
	if len(fields) < 15 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var n [15]int64
	for _, i := range []int{1, 13, 14} {
		if n[i], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return 0, 0, err
		}
	}
	return int(n[1]), time.Duration(n[13]+n[14]) * tick, nil
}

// spentBy is the CPU time of a process that runs, summed over its threads as the scheduler tells, exactly: the ticks of many processes, and
// those of many short turns, add up to a sum that is off.
func spentBy(pid int) (all time.Duration, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	if len(threads) == 0 {
		return 0, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	for _, path := range threads {
		data, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		ran, _, _ := strings.Cut(string(data), " ")
		nanoseconds, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		all += time.Duration(nanoseconds)
	}
	return all, nil
}

func peakRSS() (int64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if text, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no VmHWM")
}
