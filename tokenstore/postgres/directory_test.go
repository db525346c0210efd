package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

type (
	pgxBatch = pgx.Batch
	pgxTx    = pgx.Tx
)

const nonce = "4e6f6e63-6520-4f66-2054-657374732121"

func declaredProcessor(t *testing.T) (*postgres.Directory, *pgxpool.Pool) {
	t.Helper()
	pool := migrated(t)
	d := postgres.NewDirectory(pool, postgres.DefaultSchema)
	declare(t, d, "one")
	return d, pool
}

func declare(t *testing.T, d *postgres.Directory, definition string) {
	t.Helper()
	err := d.DeclareProcessor(context.Background(), tokenstore.Processor{Name: processor, Definition: definition, Replicas: 3, Live: json.RawMessage(`{"a": 1}`)})
	if err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, d *postgres.Directory) tokenstore.View {
	t.Helper()
	v, err := d.View(context.Background(), processor)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func worker(incarnation int64) tokenstore.Worker {
	return tokenstore.Worker{Incarnation: incarnation, Nonce: nonce, Pod: "pod", Definition: "one", Handlers: []string{}, Version: "v", Protocol: 1, State: tokenstore.Active}
}

func optionsOf(pool *pgxpool.Pool) postgres.Options {
	return postgres.Options{Target: func(context.Context) (postgres.Target, error) {
		conn, err := pool.Acquire(context.Background())
		if err != nil {
			return postgres.Target{}, err
		}
		defer conn.Release()
		c := conn.Conn().Config()
		return postgres.Target{Host: c.Host, Port: c.Port, Database: c.Database, User: c.User}, nil
	}}
}

func register(t *testing.T, d *postgres.Directory, w tokenstore.Worker) {
	t.Helper()
	if err := d.Register(context.Background(), processor, w); err != nil {
		t.Fatal(err)
	}
}

func plan(last int64, targets ...tokenstore.Assignment) tokenstore.Plan {
	return tokenstore.Plan{Planner: "test", Last: last, Members: []int64{1, 2}, Changed: len(targets) > 0, Targets: targets}
}

func TestOnlyAChangeRaisesTheRevisionAndADefinitionIsNumberedByWhenItWasWanted(t *testing.T) {
	d, _ := declaredProcessor(t)
	first := view(t, d).Processor
	declare(t, d, "one")
	if again := view(t, d).Processor; again.Revision != first.Revision || again.Number != first.Number {
		t.Fatalf("declared twice: %+v, then %+v", first, again)
	}
	declare(t, d, "two")
	declare(t, d, "one")
	if back := view(t, d).Processor; back.Number != 3 || back.Revision != first.Revision+2 {
		t.Fatalf("after one, two, one: %+v", back)
	}
}

func TestAWorkerIsDeadWhenItsSessionLockIsGone(t *testing.T) {
	d, pool := declaredProcessor(t)
	ctx := context.Background()
	session, err := postgres.OpenSession(ctx, optionsOf(pool), postgres.Channel(postgres.DefaultSchema))
	if err != nil {
		t.Fatal(err)
	}
	n, err := session.Incarnation(ctx, postgres.DefaultSchema)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := session.Lock(ctx, n); err != nil || !got {
		t.Fatalf("the session lock: %v, %v", got, err)
	}
	w := worker(n)
	w.SessionLock = true
	register(t, d, w)
	if v := view(t, d); len(v.Workers) != 1 || !v.Workers[0].Alive {
		t.Fatalf("workers: %+v", v.Workers)
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	// The server notices the end of the connection by itself; ask until it has.
	for view(t, d).Workers[0].Alive {
	}
	if p, err := d.Beat(ctx, w); err != nil || p.Alive != 0 || p.Known != 1 {
		t.Fatalf("the pulse: %+v, %v", p, err)
	}
}

func TestABeatKeepsTheReportAndTellsOfPlans(t *testing.T) {
	d, _ := declaredProcessor(t)
	ctx := context.Background()
	w := worker(1)
	register(t, d, w)
	w.Report = tokenstore.Report{Ready: true, Groups: map[string]tokenstore.GroupReport{"view": {Rate: 5}}}
	before, err := d.Beat(ctx, w)
	if err != nil || before.Planned {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := d.Assign(ctx, processor, plan(before.Plan, tokenstore.Assignment{Key: tokenstore.Key{Group: "view", Segment: 3}, Worker: 1})); err != nil {
		t.Fatal(err)
	}
	after, err := d.Beat(ctx, w)
	if err != nil || after.Plan != before.Plan+1 || !after.Planned || after.Alive != 1 {
		t.Fatalf("%+v, %v", after, err)
	}
	if v := view(t, d); v.Workers[0].Report.Groups["view"].Rate != 5 || len(v.Assignments) != 1 || v.Assignments[0].Worker != 1 || len(v.Processor.Members) != 2 {
		t.Fatalf("%+v", v)
	}
	if err := d.SetState(ctx, 1, tokenstore.Ended); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Beat(ctx, w); !errors.Is(err, tokenstore.ErrWorkerEnded) {
		t.Fatalf("a beat after the end: %v", err)
	}
}

func TestAPlanThatWasMadeOnAnOlderOneIsRefused(t *testing.T) {
	d, _ := declaredProcessor(t)
	ctx := context.Background()
	key := tokenstore.Key{Group: "view", Segment: 0}
	if err := d.Assign(ctx, processor, plan(0, tokenstore.Assignment{Key: key, Worker: 1})); err != nil {
		t.Fatal(err)
	}
	if err := d.Assign(ctx, processor, plan(0, tokenstore.Assignment{Key: key, Worker: 2})); !errors.Is(err, tokenstore.ErrPlanOutdated) {
		t.Fatalf("a plan on an older one: %v", err)
	}
	if got, err := d.Adopt(ctx, processor, 3, []tokenstore.Assignment{{Key: key, Worker: 2}}); err != nil || len(got) != 0 {
		t.Fatalf("adopting from one who is not the assignee: %v, %v", got, err)
	}
	if got, err := d.Adopt(ctx, processor, 3, []tokenstore.Assignment{{Key: key, Worker: 1}, {Key: tokenstore.Key{Group: "view", Segment: 1}}}); err != nil || len(got) != 2 {
		t.Fatalf("adopting: %v, %v", got, err)
	}
	if err := d.Assign(ctx, processor, plan(1)); !errors.Is(err, tokenstore.ErrPlanOutdated) {
		t.Fatalf("an adoption is a plan of its own: %v", err)
	}
	if err := d.Assign(ctx, processor, tokenstore.Plan{Last: 2, Members: []int64{}, Changed: true, Gone: []tokenstore.Key{key}}); err != nil {
		t.Fatal(err)
	}
	if v := view(t, d); len(v.Assignments) != 1 || v.Processor.Plan != 3 {
		t.Fatalf("%+v", v)
	}
}
