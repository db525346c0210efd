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
		ended, err := readStat(m.server)
		if err != nil {
			return 0, 0, err
		}
		running, err := m.readChildren()
		if err != nil {
			return 0, 0, err
		}
		now, err := readStat(m.server)
		if err != nil {
			return 0, 0, err
		}
		if now.children == ended.children { // else one may be counted twice, or not at all
			return time.Duration(own.Utime.Nano() + own.Stime.Nano()), now.own + now.children + running, nil
		}
	}
}

// readChildren returns what the server's processes that run have spent.
func (m *Meter) readChildren() (spent time.Duration, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return 0, err
		}
		if s, err := readStat(pid); err == nil && s.parent == m.server { // an error: it has ended meanwhile
			spent += s.own
		}
	}
	return spent, nil
}

// stat is what /proc says of a process.
type stat struct {
	parent        int
	own, children time.Duration
}

// tick is the unit of times in /proc, which is the same on all machines that Go runs on.
const tick = 10 * time.Millisecond

// readStat reads what a process has spent. What a process with one thread has, as all of the server's are, is told by the scheduler: many
// processes' ticks, and those of many short turns, add up to a sum that is off.
func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	_, after, _ := strings.Cut(string(data), ") ") // behind the name
	fields := strings.Fields(after)
	if len(fields) < 18 {
		return stat{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var n [18]int64
	for _, i := range []int{1, 11, 12, 13, 14, 17} {
		if n[i], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return stat{}, err
		}
	}
	s := stat{int(n[1]), time.Duration(n[11]+n[12]) * tick, time.Duration(n[13]+n[14]) * tick}
	if n[17] == 1 {
		if data, err = os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid)); err != nil {
			return stat{}, err
		}
		ran, _, _ := strings.Cut(string(data), " ")
		nanoseconds, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("/proc/%d/schedstat: %w", pid, err)
		}
		s.own = time.Duration(nanoseconds)
	}
	return s, nil
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
