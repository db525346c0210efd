package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/ports"
	"github.com/sluice-project/sluice/tokenstore"
)

// readings are what the programs' clock is read by in Go's own source, how often each occurs there, and by what it is replaced.
// No preloaded library gets between a Go program and the kernel's clock, so the program is built from another source.
var readings = []struct {
	old, new string
	times    int
}{
	{"sec, nsec, mono := runtimeNow()\n\tif mono == 0 {", "sec, nsec, mono := disturbedNow()\n\tif mono == 0 {", 1}, // Now
	{"runtimeNano()-startNano", "disturbedNano()-startNano", 2},                                                     // Since, Until
}

// disturbedProgram is the worker's, built once with a clock that SLUICE_TEST_CLOCK disturbs.
var disturbedProgram = sync.OnceValues(func() (string, error) {
	dir, err := programs()
	if err != nil {
		return "", err
	}
	overlay, err := disturbTime(dir)
	if err != nil {
		return "", fmt.Errorf("building the worker with a disturbed clock: %w", err)
	}
	return build("disturbed", "-overlay="+overlay)
})

// disturbTime writes a copy of package time's source into a folder, with the readings of the clock replaced, and the overlay that
// puts it in the place of the original.
func disturbTime(dir string) (overlay string, err error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("asking for GOROOT: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(original, "time.go"))
	if err != nil {
		return "", err
	}
	text, err := replaceReadings(string(source))
	if err != nil {
		return "", fmt.Errorf("%s: %w", original, err)
	}
	added, err := filepath.Abs(filepath.Join("testdata", "disturbed.go"))
	if err != nil {
		return "", err
	}
	changed := filepath.Join(dir, "time.go")
	files, err := overlaid()
	if err != nil {
		return "", err
	}
	files[filepath.Join(original, "time.go")], files[filepath.Join(original, "disturbed.go")] = changed, added
	replace, err := json.Marshal(map[string]map[string]string{"Replace": files})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, errors.Join(os.WriteFile(changed, []byte(text), 0o644), os.WriteFile(overlay, replace, 0o644))
}

// overlaid are the files that this test itself was built with in the place of others: a build has one overlay.
func overlaid() (map[string]string, error) {
	for _, flag := range strings.Fields(os.Getenv("GOFLAGS")) {
		path, is := strings.CutPrefix(flag, "-overlay=")
		if !is {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var overlay struct{ Replace map[string]string }
		if err := json.Unmarshal(text, &overlay); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return overlay.Replace, nil
	}
	return map[string]string{}, nil
}

// replaceReadings fails unless the source reads the clock in just the places that are known: else some would go undisturbed.
func replaceReadings(source string) (string, error) {
	for _, r := range readings {
		if n := strings.Count(source, r.old); n != r.times {
			return "", fmt.Errorf("%q occurs %d times, not %d: look how this Go reads its clock, and change what is replaced", r.old, n, r.times)
		}
		source = strings.ReplaceAll(source, r.old, r.new)
	}
	for _, call := range []string{"runtimeNow()", "runtimeNano()"} {
		rest := source
		for _, kept := range []string{"func " + call, "var startNano int64 = " + call, "// We initialize startNano to " + call} {
			rest = strings.ReplaceAll(rest, kept, "")
		}
		if strings.Contains(rest, call) {
			return "", fmt.Errorf("%s is called in a place that is not known: look how this Go reads its clock, and change what is replaced", call)
		}
	}
	return source, nil
}

// disturbances of the clock, and how far it has to be seen to have gone wrong: off, by the wall clock against the kernel's, and
// gone, the share of the true time that has gone by.
var disturbances = []struct {
	mode string
	seen func(r reading) bool
}{
	{"freeze=4s", func(r reading) bool { return r.kernel > 5*time.Second && r.gone < 4*time.Second }},
	{"skew=-3h", func(r reading) bool { return r.off < -179*time.Minute && r.off > -181*time.Minute }},
	{"jump=2h", func(r reading) bool { return r.off < -119*time.Minute }},
	{"drift=50", func(r reading) bool { return r.kernel > time.Second && r.gone < r.kernel*51/100 }},
	{"drift=300", func(r reading) bool { return r.kernel > time.Second && r.gone > r.kernel*29/10 }},
	{"leap=1m", func(r reading) bool { return r.gone > r.kernel+59*time.Second }},
}

// readingLine is how a process logs what its clock reads.
var readingLine = regexp.MustCompile(`(?m)^clock: .*\n`)

// reading is one of a process's clock.
type reading struct{ off, gone, kernel time.Duration }

// readings are what a pod has logged of its clock.
func (p *pod) readings() (all []reading) {
	p.world.t.Helper()
	log, err := os.ReadFile(filepath.Join(p.world.dir, p.name+".log"))
	if err != nil {
		p.world.t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		var r reading
		if n, _ := fmt.Sscanf(line, "clock: off by %d ns, has gone %d ns in %d ns", &r.off, &r.gone, &r.kernel); n == 3 {
			all = append(all, r)
		}
	}
	return all
}

// TestEachEventOnceAndInOrderWhateverTheWorkersClocksSay has workers whose clocks are wrong, jump, run too fast or too slowly or
// stand still, go through a storm. Safety needs no clock, and only one that stands still keeps a worker from living: others take over
// from it, while it goes on in the belief that its lease runs.
func TestEachEventOnceAndInOrderWhateverTheWorkersClocksSay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, groups(8))
	w.record()
	started := map[string][]*pod{}
	next := 0
	start := func() *pod {
		mode := disturbances[next%len(disturbances)].mode
		next++
		p := w.startProgram(disturbedProgram, "SLUICE_TEST_CLOCK="+mode)
		started[mode] = append(started[mode], p)
		return p
	}
	pods := []*pod{start(), start(), start(), start(), start(), start()}
	// Where the machine is busy, the lease of the one whose clock stands still may be over by now.
	w.until("the other pods to share the segments", `SELECT count(DISTINCT owner) = 5 FROM sluice.token WHERE owner NOT IN (0, $1)`, w.incarnation(pods[0]))
	ctx, cancel := context.WithCancel(context.Background())
	writers := w.writers(ctx, 4)
	w.until("the lease of the one whose clock stands still to be over", `SELECT lease_until < clock_timestamp() FROM sluice.worker WHERE incarnation = $1`, w.incarnation(pods[0]))
	w.takenFrom(pods[0])
	did := w.storm(pods, start, chaos(t)/2)
	cancel()
	writers.Wait()
	w.survived(did)
	for _, d := range disturbances {
		seen := 0
		for _, p := range started[d.mode] {
			if slices.ContainsFunc(p.readings(), d.seen) {
				seen++
			}
		}
		t.Logf("%s: seen in %d of %d pods", d.mode, seen, len(started[d.mode]))
		if seen == 0 {
			t.Errorf("vacuous: no pod's clock was disturbed by %s", d.mode)
		}
	}
}

func TestLagAndLeaseAreToldByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"skew=-3h", "skew=3h"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, groups(1))
			w.startProgram(disturbedProgram, "SLUICE_TEST_CLOCK="+mode)
			w.until("the view's table", `SELECT to_regclass('stream_view') IS NOT NULL`)
			w.exec(`ALTER TABLE stream_view ADD CONSTRAINT none CHECK (events = 0)`)
			w.exec(`SELECT sluice.append('stream-1', NULL, '[{"type": "Counted", "data": {"n": "1"}}]')`)
			w.until("the event that waits to be told of", `SELECT EXISTS (SELECT FROM sluice.worker WHERE (report #>> '{groups,view,lag}')::float8 > 2)`)
			w.until("a lease by the database's clock", `SELECT lease_until BETWEEN clock_timestamp() AND clock_timestamp() + $1::interval FROM sluice.worker`, tokenstore.Lease)
			var lag, age, lasted float64
			err := w.pool.QueryRow(t.Context(), `SELECT (report #>> '{groups,view,lag}')::float8, (report #>> '{groups,view,fault,lasted}')::float8,
				(SELECT extract(epoch FROM clock_timestamp() - min(recorded_at)) FROM sluice.event) FROM sluice.worker`).Scan(&lag, &lasted, &age)
			if err != nil {
				t.Fatal(err)
			}
			if lag > age || lasted > age {
				t.Errorf("an event of %.1f s ago waits for %.1f s, and has failed for %.1f s", age, lag, lasted)
			}
		})
	}
}

func TestAWorkerIsAliveWhileItsClockJumps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, groups(1))
	port, err := localpostgres.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p := w.startProgram(disturbedProgram, "SLUICE_TEST_CLOCK=jump=2h", "SLUICE_PROBE_ADDRESS="+address)
	if holders, err := ports.Holders(address); err != nil || len(holders) != 1 || holders[0].PID != p.cmd.Process.Pid {
		t.Fatalf("%s is not the worker's, process %d, but %v's (%v)", address, p.cmd.Process.Pid, holders, err)
	}
	looks := 0
	for jumped := 0; jumped < 2; looks++ { // ahead of what it read before, by more than a loop that turns may be late
		answer, err := http.Get("http://" + address + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close() // nothing is read
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("look %d: /healthz answers %s", looks, answer.Status)
		}
		jumped = 0
		for i, readings := 1, p.readings(); i < len(readings); i++ {
			if readings[i].off-readings[i-1].off > time.Hour {
				jumped++
			}
		}
		if looks == 10_000 {
			t.Fatalf("the clock has jumped ahead %d times", jumped)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%d looks", looks)
	p.drain()
}
