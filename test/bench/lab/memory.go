package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Sampler looks at this process's resident memory again and again.
type Sampler struct {
	stop chan struct{}
	done chan struct{}
	all  []int64
	err  error
}

// SampleMemory begins to look, now and once an interval.
func SampleMemory(every time.Duration) *Sampler {
	s := &Sampler{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		ticks := time.NewTicker(every)
		defer ticks.Stop()
		for s.look(); s.err == nil; s.look() {
			select {
			case <-s.stop:
				return
			case <-ticks.C:
			}
		}
	}()
	return s
}

// Stop ends it and returns what was seen, in bytes, at least two values.
func (s *Sampler) Stop() ([]int64, error) {
	close(s.stop)
	<-s.done
	s.look()
	return s.all, s.err
}

func (s *Sampler) look() {
	resident, err := resident()
	if err != nil {
		s.err = err
		return
	}
	s.all = append(s.all, resident)
}

// resident is this process's memory that is not swapped out or given back, in bytes.
func resident() (int64, error) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/self/statm has %d fields", len(fields))
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
