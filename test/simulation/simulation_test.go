// Package simulation_test runs whole processors in one process, in the time of testing/synctest:
// workers, the planner and a stand-in for the operator, on a store and a log in memory. A seed
// determines all that happens to them. What was committed is checked as in the fault tests.
package simulation_test

import (
	"cmp"
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
const usual = 60

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

// TestSeedsHandleEachEventOnceInOrder runs worlds through crashes and everything else that a seed
// has in store for them.
func TestSeedsHandleEachEventOnceInOrder(t *testing.T) {
	text := cmp.Or(os.Getenv(seedsVariable), strconv.Itoa(usual))
	first, last, err := parseSeeds(text)
	if err != nil {
		t.Fatal(err)
	}
	shared := 0
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, err := run(t, seed, (*world).schedule)
				shared += w.found.Shared
				t.Log(w.summary())
				if err != nil || t.Failed() {
					t.Errorf("%v\n\nits history:\n%s\n\n%v\nthe same run again: make simulate SEEDS=%d-%d", err, w.record.text(), err, seed, seed)
				}
			})
		})
	}
	if shared == 0 && last-first >= 10 {
		t.Error("vacuous: no batch was of several segments")
	}
}

// mostRuns is how many runs of a seed are tried until two are the same. One thing does not follow
// from the seed: Go's scheduler preempts a goroutine after 10 ms of real time, as when the machine
// has had something else to do. Runs that differ for any other reason are never the same, in
// thousands of calls.
const mostRuns = 8

func TestASeedAlwaysGivesTheSameRun(t *testing.T) {
	for seed := range uint64(4) {
		var records []*record
		diff := "nothing to compare with"
		for diff != "" && len(records) < mostRuns {
			synctest.Test(t, func(t *testing.T) {
				w, _ := run(t, seed, (*world).schedule) // whether something is wrong is shown by the other test
				for _, other := range records {
					if diff = difference(other, w.record); diff == "" {
						break
					}
				}
				records = append(records, w.record)
			})
		}
		if diff != "" {
			t.Errorf("seed %d: no two of %d runs are the same: %s", seed, len(records), diff)
		}
		if len(records[0].calls) < 1000 || len(records[0].lines) < 100 {
			t.Errorf("vacuous: seed %d has %d calls and a history of %d lines", seed, len(records[0].calls), len(records[0].lines))
		}
		t.Logf("seed %d: two of %d runs are the same", seed, len(records))
	}
}

func TestDifferentSeedsGiveDifferentRuns(t *testing.T) {
	var records []*record
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			w, _ := run(t, seed, (*world).schedule)
			records = append(records, w.record)
		})
	}
	if difference(records[0], records[1]) == "" {
		t.Error("they are the same")
	}
}

func TestARunInWhichNothingHappensIsVacuous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := run(t, 1, func(*world) []kind { return nil })
		text := fmt.Sprint(err)
		for _, k := range kinds {
			if want := fmt.Sprintf("vacuous: %s had no effect", k.name); k.effect != "" && !strings.Contains(text, want) {
				t.Errorf("%q is not in:\n%s", want, text)
			}
		}
		for _, what := range []string{"takeovers", "splits", "merges", "resets"} {
			if want := fmt.Sprintf("vacuous: 0 %s happened, of at least 1", what); !strings.Contains(text, want) {
				t.Errorf("%q is not in:\n%s", want, text)
			}
		}
	})
}

func TestSeedsAreANumberOrARange(t *testing.T) {
	for text, want := range map[string][2]uint64{"500": {0, 499}, "17-20": {17, 20}, "3-3": {3, 3}} {
		if first, last, err := parseSeeds(text); err != nil || first != want[0] || last != want[1] {
			t.Errorf("%s: %d to %d, %v", text, first, last, err)
		}
	}
	for _, text := range []string{"0", "-1", "20-17", "many", "1-", "-"} {
		if _, _, err := parseSeeds(text); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}
