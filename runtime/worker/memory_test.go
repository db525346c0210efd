package worker

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestTheBudgetFollowsTheProcessesLimits(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "memory.max")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, test := range map[string]struct {
		limits []int64
		want   int64
	}{
		"none":                    {[]int64{math.MaxInt64, cgroupLimit(file("max\n")), cgroupLimit("/no/such/file")}, 64 << 20},
		"a container's":           {[]int64{math.MaxInt64, cgroupLimit(file("268435456\n"))}, 32 << 20},
		"the runtime's, lower":    {[]int64{128 << 20, cgroupLimit(file("268435456\n"))}, 16 << 20},
		"so low that it is ours":  {[]int64{32 << 20}, 8 << 20},
		"of a very large machine": {[]int64{64 << 30}, 64 << 20},
	} {
		if got := budgetFor(test.limits...); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
