// Package simulation_test runs whole processors in one process, in the time of testing/synctest: workers, the
// planner and a stand-in for the operator, on a store and a log in memory. A seed determines all that
// happens to them. What was committed is checked as in the fault tests.
package simulation_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

// seedsVariable says which seeds run: how many, or from which to which.
const seedsVariable = "SLUICE_SIMULATION_SEEDS"

// usual is how many seeds run otherwise.
const usual = 40

// TestMain has one goroutine run at a time: only then a seed always gives the same run.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
	os.Exit(m.Run())
}

// parseSeeds reads "500", the seeds from 0 to 499, or "17-20", those from 17 to 20.
func parseSeeds(text string) (first, last uint64, err error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		count, err := strconv.ParseUint(text, 10, 32)
		if err != nil || count == 0 {
			return 0, 0, fmt.Errorf("%s=%s is neither a number of seeds nor a range such as 17-20", seedsVariable, text)
		}
		return 0, count - 1, nil
	}
	first, err = strconv.ParseUint(from, 10, 32)
	if err == nil {
		last, err = strconv.ParseUint(to, 10, 32)
	}
	if err != nil || first > last {
		return 0, 0, fmt.Errorf("%s=%s is neither a number of seeds nor a range such as 17-20", seedsVariable, text)
	}
	return first, last, nil
}

// TestSeedsHandleEachEventOnceInOrder runs worlds through crashes and everything else that a seed has
// in store for them.
func TestSeedsHandleEachEventOnceInOrder(t *testing.T) {
	text := os.Getenv(seedsVariable)
	if text == "" {
		text = strconv.Itoa(usual)
	}
	first, last, err := parseSeeds(text)
	if err != nil {
		t.Fatal(err)
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				record, err := run(t, seed)
				t.Log(record.summary)
				if err != nil || t.Failed() {
					t.Errorf("%v\n\nthis seed again: make simulate SEEDS=%d-%d\nits history:\n%s\n\n%v", err, seed, seed, record.text(), err)
				}
			})
		})
	}
}

func samples() int {
	n, _ := strconv.Atoi(os.Getenv("SAMPLES"))
	return max(n, 3)
}

func TestASeedAlwaysGivesTheSameRun(t *testing.T) {
	for seed := range uint64(samples()) {
		var records []*record
		for range 2 {
			synctest.Test(t, func(t *testing.T) {
				record, _ := run(t, seed) // whether something is wrong is shown by the other test
				records = append(records, record)
			})
		}
		if diff := difference(records[0], records[1]); diff != "" {
			t.Errorf("seed %d: %s", seed, diff)
		}
	}
}
