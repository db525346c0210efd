package lab

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// OneCPU has this process, and those that it starts from here on, run on one of its CPUs. CPU times
// vary less then: two CPUs may share a core, and what one does slows the other down.
func OneCPU() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("asking for the CPUs of this process: %w", err)
	}
	last := 0
	for cpu := range 64 * len(allowed) {
		if allowed.IsSet(cpu) {
			last = cpu
		}
	}
	one.Set(last)
	for range 2 { // a thread that was moved last may have started another one meanwhile
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(id, &one); err != nil {
				return fmt.Errorf("running on CPU %d alone: %w", last, err)
			}
		}
	}
	return nil
}
