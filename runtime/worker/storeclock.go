package worker

import (
	"sync"
	"time"
)

// storeClock is the database's clock as it was read last, carried on by this process's monotonic clock. Ages of what the database
// has dated are told by it: this machine's wall clock may be wrong.
type storeClock struct {
	mu   sync.Mutex
	read time.Time // by the database; zero before the first reading
	at   time.Time // with a monotonic reading
}

// set takes note of a reading that has just come; a zero one says nothing.
func (c *storeClock) set(read time.Time) {
	if read.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.at = read, time.Now()
}

// now is this machine's clock as long as the database's has not been read.
func (c *storeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read.IsZero() {
		return time.Now()
	}
	return c.read.Add(time.Since(c.at))
}
