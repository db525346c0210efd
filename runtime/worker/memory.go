package worker

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/sluice-project/sluice/runtime/feed"
)

// memoryShare of what the process may take is for events that have been read and not handled yet, the rest for what handlers make of
// them, and for what the garbage collector leaves until its next turn.
const memoryShare = 8

// leastMemory is enough for pages of half a megabyte.
const leastMemory = 8 << 20

// defaultMemory is the budget for events in memory where none is given: that of a feed, or less where the process may not take much.
func defaultMemory() int64 {
	return budgetFor(debug.SetMemoryLimit(-1), cgroupLimit("/sys/fs/cgroup/memory.max"), cgroupLimit("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
}

// budgetFor takes the limits that there are on the process's memory.
func budgetFor(limits ...int64) int64 {
	least := int64(math.MaxInt64)
	for _, limit := range limits {
		least = min(least, limit)
	}
	return max(min(least/memoryShare, feed.DefaultMemory), leastMemory)
}

// cgroupLimit reads a container's limit from a file, which has another name in each version of control groups. Without one there is none.
func cgroupLimit(file string) int64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return math.MaxInt64
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || limit <= 0 { // "max"
		return math.MaxInt64
	}
	return limit
}
