package planner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const processor = "test/default/p"

// world is a processor with one group in a real directory and store.
type world struct {
	t         *testing.T
	directory *postgres.Directory
	store     *postgres.Store
	pool      *pgxpool.Pool
}

func newWorld(t *testing.T, segments int) (*world, *Planner) {
	t.Helper()
	ctx := context.Background()
	u, err := url.Parse(postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	options := postgres.Options{Target: func(context.Context) (postgres.Target, error) {
		return postgres.Target{Host: u.Hostname(), Port: uint16(port), Database: u.Path[1:], User: u.User.Username()}, nil
	}}
	conn, err := postgres.Connect(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := postgres.Migrate(ctx, conn, "sluice"); err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w := &world{t: t, directory: postgres.NewDirectory(pool, "sluice"), store: postgres.NewStore(pool, "sluice"), pool: pool}
	if err := w.directory.DeclareProcessor(ctx, tokenstore.Processor{Name: processor, Definition: "d", Replicas: 3, Live: json.RawMessage("{}")}); err != nil {
		t.Fatal(err)
	}
	w.want(segments)
	return w, &Planner{Directory: w.directory, Store: w.store, Processor: processor, Name: "test"}
}

func (w *world) want(segments int) {
	w.t.Helper()
	err := w.store.Declare(context.Background(), tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: "g", Segments: segments}}, nil, func(string) (progress.Progress, error) { return progress.Progress{}, nil })
	if err != nil {
		w.t.Fatal(err)
	}
}

// join registers a worker that handles the group, unless it refuses it.
func (w *world) join(incarnation int64, refuses bool) {
	w.t.Helper()
	worker := tokenstore.Worker{Incarnation: incarnation, Nonce: fmt.Sprintf("00000000-0000-4000-8000-%012d", incarnation), Pod: "p", Definition: "d", Handlers: []string{}, State: tokenstore.Active,
		Report: tokenstore.Report{Groups: map[string]tokenstore.GroupReport{"g": {Refused: refuses}}}}
	if err := w.directory.Register(context.Background(), processor, worker); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.directory.Heartbeat(context.Background(), worker); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) step(p *Planner) Outcome {
	w.t.Helper()
	o, err := p.Step(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// shares are how many segments each worker is assigned.
func (w *world) shares() map[int64]int {
	w.t.Helper()
	view, err := w.directory.View(context.Background(), processor)
	if err != nil {
		w.t.Fatal(err)
	}
	shares := map[int64]int{}
	for _, a := range view.Assignments {
		shares[a.Worker]++
	}
	return shares
}

func (w *world) expect(want map[int64]int) {
	w.t.Helper()
	if got := w.shares(); fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Fatalf("shares %v, want %v", got, want)
	}
}

func TestAPlanSharesSegmentsAndAtItsFixpointOnlyRenews(t *testing.T) {
	w, p := newWorld(t, 8)
	w.join(1, false)
	w.join(2, false)
	w.step(p)
	w.expect(map[int64]int{1: 4, 2: 4})
	before := w.step(p).View.Processor
	o := w.step(p)
	if o.View.Processor.Plan != before.Plan || len(o.Moves) > 0 {
		t.Fatalf("plan %d became %d, %d moves", before.Plan, o.View.Processor.Plan, len(o.Moves))
	}
	if o.View.Processor.PlanAge > time.Minute {
		t.Fatalf("the plan was not renewed for %s", o.View.Processor.PlanAge)
	}
}

// TestAPlanIsRenewedWithoutALookWhereThereWasNothingToChange has another planner change it then.
func TestAPlanIsRenewedWithoutALookWhereThereWasNothingToChange(t *testing.T) {
	w, p := newWorld(t, 8)
	renews := func(within time.Duration, want bool) {
		t.Helper()
		if renewed, err := p.Renew(context.Background(), within); err != nil || renewed != want {
			t.Fatalf("renewed: %t, %v, want %t", renewed, err, want)
		}
	}
	renews(time.Hour, false)
	w.join(1, false)
	w.step(p)
	renews(time.Hour, false) // that step gave segments away
	before := w.step(p).View.Processor
	renews(time.Hour, true)
	renews(0, false)
	if after := w.step(p).View.Processor; after.Plan != before.Plan || after.Planner != before.Planner {
		t.Fatalf("plan %d of %s became plan %d of %s", before.Plan, before.Planner, after.Plan, after.Planner)
	}
	w.join(2, false)
	w.step(&Planner{Directory: p.Directory, Store: p.Store, Processor: p.Processor, Name: "another"})
	if _, err := p.Renew(context.Background(), time.Hour); !IsOutdated(err) {
		t.Fatalf("an outdated plan was renewed: %v", err)
	}
	w.expect(map[int64]int{1: 4, 2: 4})
}

func TestAWorkerThatRefusesAGroupOrDoesNotReportItIsGivenNothingOfIt(t *testing.T) {
	w, p := newWorld(t, 8)
	w.join(1, false)
	w.join(2, true)
	if err := w.directory.Register(context.Background(), processor, tokenstore.Worker{Incarnation: 3, Nonce: "00000000-0000-4000-8000-000000000003", Pod: "p", Definition: "d", Handlers: []string{}}); err != nil {
		t.Fatal(err)
	}
	w.step(p)
	w.expect(map[int64]int{1: 8})
}

func TestSegmentsAreSplitAndMergedToWhatIsWanted(t *testing.T) {
	w, p := newWorld(t, 2)
	w.join(1, false)
	for _, n := range []int{16, 5, 300} {
		w.want(n)
		for w.step(p).Reshaped > 0 {
		}
		w.expect(map[int64]int{1: n})
	}
}

func TestASegmentTakenOverUncleanlyStaysForAWhile(t *testing.T) {
	now := time.Unix(1000, 0)
	p := &Planner{Now: func() time.Time { return now }}
	at := func(owner int64) []tokenstore.Token {
		return []tokenstore.Token{{Key: tokenstore.Key{Group: "g"}, Owner: owner}}
	}
	seen := func(alive ...bool) tokenstore.View {
		var v tokenstore.View
		for i, a := range alive {
			v.Workers = append(v.Workers, tokenstore.Worker{Incarnation: int64(i + 1), Alive: a})
		}
		return v
	}
	key := tokenstore.Key{Group: "g"}
	p.pin(seen(true, true), at(1))
	if p.pinned(key) {
		t.Fatal("pinned while its owner lives")
	}
	p.pin(seen(false, true), at(2)) // worker 2 was quicker than the planner
	if !p.pinned(key) {
		t.Fatal("not pinned after its owner died")
	}
	now = now.Add(pinnedFor)
	if p.pinned(key) {
		t.Fatalf("still pinned after %s", pinnedFor)
	}
	p.pin(seen(false, false), at(2))
	now = now.Add(pinnedFor)
	if !p.pinned(key) {
		t.Fatal("a second death does not pin for longer")
	}
	now = now.Add(pinnedFor)
	p.pin(seen(false, false), at(2)) // the same death, seen again
	if p.pinned(key) {
		t.Fatal("one death pins twice")
	}
}

func TestOfTwoPlannersOneIsTold(t *testing.T) {
	w, p := newWorld(t, 4)
	w.join(1, false)
	view, err := w.directory.View(context.Background(), processor)
	if err != nil {
		t.Fatal(err)
	}
	w.step(p)
	err = w.directory.Assign(context.Background(), processor, tokenstore.Plan{Planner: "slow", Last: view.Processor.Plan, Members: []int64{1}})
	if !errors.Is(err, tokenstore.ErrPlanOutdated) || !IsOutdated(err) {
		t.Fatalf("the slower planner is told %v", err)
	}
}
