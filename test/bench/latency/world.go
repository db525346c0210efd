package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/test/bench/lab"
)

// world is a database and what is measured in it.
type world struct {
	options
	server *lab.Server
	url    string
	db     *pgxpool.Pool

	figures []lab.Figure
}

// scenario is what else happens.
type scenario struct {
	name      string
	rollbacks float64 // share of the transactions that append and are rolled back
	open      bool    // a transaction has appended, and stays open
	replay    bool    // another group goes through a backlog
	shared    bool    // segments share transactions
}

var scenarios = []scenario{
	{name: "nothing else"},
	{name: "nothing else, segments share transactions", shared: true},
	{name: "a writer stays open", open: true},
	{name: "one append of ten is rolled back", rollbacks: 0.1},
	{name: "another group replays a backlog", replay: true},
}

// writes gives each event a row, whose transaction is that of its batch.
const writes = `  - name: %[1]s
    segments: 16
    handler:
      type: SQL
      rows: %[2]s
      sql:
        statements:
        - eventTypes: [Ticked]
          batch: INSERT INTO %[1]s (position) SELECT position FROM events
`

// replays adds a backlog up.
const replays = `  - name: replaying
    segments: 16
    handler:
      type: SQL
      sql:
        statements:
        - eventTypes: [Old]
          batch: |
            INSERT INTO summed AS s (stream_id, events) SELECT stream_id, count(*) FROM events GROUP BY 1
            ON CONFLICT (stream_id) DO UPDATE SET events = s.events + excluded.events
`

// measure runs a scenario and prints its line.
func (w *world) measure(ctx context.Context, s scenario) (err error) {
	table := fmt.Sprintf("seen%d", slices.IndexFunc(scenarios, func(other scenario) bool { return other.name == s.name }))
	if _, err := w.db.Exec(ctx, "CREATE TABLE "+table+" (position bigint PRIMARY KEY)"); err != nil {
		return err
	}
	if s.replay {
		if err := w.fill(ctx); err != nil {
			return err
		}
	}
	running, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	var ended []error
	defer func() {
		stop()
		workers.Wait()
		err = errors.Join(append(ended, err)...)
	}()
	rows := definition.RowsShared
	if s.shared {
		rows = definition.RowsBySequence
	}
	run := func(p *lab.Processor, at progress.StartType) error {
		if err := p.Declare(ctx, progress.StartPosition{Type: at}); err != nil {
			return err
		}
		ended = append(ended, nil)
		i := len(ended) - 1
		workers.Go(func() { ended[i] = p.Run(running, p.Name) })
		return nil
	}
	if err := run(&lab.Processor{Name: table, Groups: fmt.Sprintf(writes, table, rows), URL: w.url, DB: w.db}, progress.Latest); err != nil {
		return err
	}
	if err := w.handled(ctx, table); err != nil { // it is at work before it is measured
		return err
	}
	if s.replay {
		if err := run(&lab.Processor{Name: "replaying", Groups: replays, URL: w.url, DB: w.db}, progress.Earliest); err != nil {
			return err
		}
	}
	if s.open {
		tx, err := w.db.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // the measuring is over
		if _, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = 0"); err != nil {
			return err
		}
		if _, err := eventspostgres.NewLog(w.db, lab.Schema).AppendTx(ctx, tx, "open", eventspostgres.Any, eventspostgres.NewEvent{Type: "Ticked"}); err != nil {
			return err
		}
	}
	meter, err := w.server.Measure()
	if err != nil {
		return err
	}
	measured, err := w.tick(ctx, s)
	if err != nil {
		return err
	}
	cost, err := meter.Stop()
	if err != nil {
		return err
	}
	var replayed int64
	if s.replay {
		if replayed, err = w.replayed(ctx); err != nil {
			return err
		}
	}
	if err := w.handled(ctx, table); err != nil {
		return err
	}
	if err := w.print(ctx, s, table, measured, cost); err != nil || !s.replay {
		return err
	}
	fmt.Printf("\nMeanwhile, in %s, %d events of the backlog were replayed, %.0f a second\n", measured.took.Round(time.Second), replayed, float64(replayed)/measured.took.Seconds())
	return nil
}

// replayed is how much of the backlog has been gone through.
func (w *world) replayed(ctx context.Context) (events int64, err error) {
	err = w.db.QueryRow(ctx, "SELECT coalesce(sum(events), 0)::bigint FROM summed").Scan(&events)
	return events, err
}

// ticks are events that were appended when they were due.
type ticks struct {
	first int64           // the position above which they are
	late  []time.Duration // by how much each append began late
	took  time.Duration
}

// tick appends events when they are due, for as long as a scenario lasts: that of a replay ends with it.
func (w *world) tick(ctx context.Context, s scenario) (t ticks, err error) {
	if err := w.db.QueryRow(ctx, "SELECT max(position) FROM sluice.event").Scan(&t.first); err != nil {
		return ticks{}, err
	}
	over, end := context.WithTimeout(ctx, w.duration)
	defer end()
	const writers = 8
	log := eventspostgres.NewLog(w.db, lab.Schema)
	began := time.Now()
	var mu sync.Mutex
	var running sync.WaitGroup
	failed := make([]error, writers+1)
	if s.replay {
		running.Go(func() { failed[writers] = w.endWithReplay(ctx, over, end) })
	}
	for writer := range writers {
		running.Go(func() {
			for i := writer; over.Err() == nil && failed[writer] == nil; i += writers {
				due := began.Add(time.Duration(i) * time.Second / time.Duration(w.rate))
				time.Sleep(time.Until(due))
				mu.Lock()
				t.late = append(t.late, time.Since(due))
				mu.Unlock()
				failed[writer] = w.append(ctx, log, fmt.Sprintf("stream-%d", rand.N(10_000)), rand.Float64() < s.rollbacks)
			}
		})
	}
	running.Wait()
	t.took = time.Since(began)
	return t, errors.Join(append(failed, log.Close())...)
}

// endWithReplay ends the measuring when the whole backlog has been gone through.
func (w *world) endWithReplay(ctx, over context.Context, end context.CancelFunc) error {
	for {
		replayed, err := w.replayed(ctx)
		if err != nil || replayed == w.backlog {
			end()
			return err
		}
		select {
		case <-over.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

var errUndo = errors.New("to be rolled back")

// append appends an event, or does so and takes it back.
func (w *world) append(ctx context.Context, log *eventspostgres.Log, stream string, undo bool) error {
	event := eventspostgres.NewEvent{Type: "Ticked", Data: map[string]string{"text": "about as much as an event says that somebody wrote with no more than one thing in mind"}}
	if !undo {
		_, err := log.Append(ctx, stream, eventspostgres.Any, event)
		return err
	}
	err := pgx.BeginFunc(ctx, w.db, func(tx pgx.Tx) error {
		if _, err := log.AppendTx(ctx, tx, stream, eventspostgres.Any, event); err != nil {
			return err
		}
		return errUndo
	})
	if errors.Is(err, errUndo) {
		return nil
	}
	return err
}

// handled appends an event and waits until it has been handled, and with it all that came before it in its segment; then for all others.
func (w *world) handled(ctx context.Context, table string) error {
	log := eventspostgres.NewLog(w.db, lab.Schema)
	if _, err := log.Append(ctx, "last", eventspostgres.Any, eventspostgres.NewEvent{Type: "Ticked"}); err != nil {
		return err
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		var all bool
		err := w.db.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM sluice.event e WHERE type = 'Ticked' AND NOT EXISTS (SELECT FROM `+table+` s WHERE s.position = e.position)
			AND position > coalesce((SELECT min(position) - 1 FROM `+table+`), 0)) AND EXISTS (SELECT FROM `+table+`)`).Scan(&all)
		if err != nil || all {
			return errors.Join(err, log.Close())
		}
		if time.Now().After(deadline) {
			return errors.New("not all events were handled in two minutes")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// print writes a line of the table.
func (w *world) print(ctx context.Context, s scenario, table string, t ticks, cost lab.Cost) error {
	rows, err := w.db.Query(ctx, `SELECT pg_xact_commit_timestamp(s.xmin) - pg_xact_commit_timestamp(e.xmin)
		FROM sluice.event e JOIN `+table+` s USING (position) WHERE position > $1 AND stream_id LIKE 'stream-%'`, t.first)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[time.Duration])
	if err != nil {
		return err
	}
	if want := float64(len(t.late)) * (1 - s.rollbacks); float64(len(all)) < 0.9*want {
		return fmt.Errorf("%d events were handled of about %.0f", len(all), want)
	}
	var batches float64
	if err := w.db.QueryRow(ctx, "SELECT count(DISTINCT xmin::text) FROM "+table+" WHERE position > $1", t.first).Scan(&batches); err != nil {
		return err
	}
	work := fmt.Sprintf("live at %d events/s: %s", w.rate, s.name)
	p50, p99 := milliseconds(lab.Quantile(all, 0.5)), milliseconds(lab.Quantile(all, 0.99))
	w.figures = append(w.figures, lab.Figure{Work: work, Unit: "ms from commit to commit, p50", Rounds: []float64{p50}, Goal: 5, AtMost: true},
		lab.Figure{Work: work, Unit: "ms from commit to commit, p99", Rounds: []float64{p99}, Goal: 25, AtMost: true})
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(len(all)) }
	fmt.Printf("| %s | %d | %s | %s | %s | %s | %.1f | %.0f + %.0f |\n", s.name, len(all), ms(lab.Quantile(all, 0.5)), ms(lab.Quantile(all, 0.99)), ms(slices.Max(all)), ms(lab.Quantile(t.late, 0.99)),
		float64(len(all))/batches, each(cost.Client), each(cost.Server))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", milliseconds(d)) }

// fill makes the backlog.
func (w *world) fill(ctx context.Context) error {
	if _, err := w.db.Exec(ctx, "CREATE TABLE summed (stream_id text PRIMARY KEY, events bigint NOT NULL)"); err != nil {
		return err
	}
	for from := int64(0); from < w.backlog; from += 10_000 {
		_, err := w.db.Exec(ctx, `INSERT INTO sluice.event (stream_id, version, type, data)
			SELECT 'old-' || i % 10000, 1 + i / 10000, 'Old', jsonb_build_object('text', repeat(md5(i::text), 7)) FROM generate_series($1::bigint, $1 + 9999) AS i ORDER BY i`, from)
		if err != nil {
			return err
		}
	}
	for _, settle := range []string{"VACUUM (ANALYZE) sluice.event", "CHECKPOINT"} { // a server that has been at work for longer has done both
		if _, err := w.db.Exec(ctx, settle); err != nil {
			return err
		}
	}
	return nil
}

// idle measures what a worker costs that has nothing to do, beside an operator.
func (w *world) idle(ctx context.Context) error {
	if _, err := w.db.Exec(ctx, "CREATE TABLE idle (position bigint PRIMARY KEY)"); err != nil {
		return err
	}
	p := &lab.Processor{Name: "idle", Groups: fmt.Sprintf(writes, "idle", definition.RowsShared), URL: w.url, DB: w.db}
	if err := p.Declare(ctx, progress.StartPosition{Type: progress.Latest}); err != nil {
		return err
	}
	operators, err := w.operators(ctx)
	if err != nil {
		return err
	}
	defer operators.Close()
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.Plan(running, operators) }()
	worker, err := p.StartWorkers(1) // a process of its own: its CPU time alone is to be counted
	if err == nil {
		err = w.handled(ctx, "idle")
		time.Sleep(15 * time.Second) // for its looks to become rare, and the server to have counted what came before
		if err == nil {
			err = w.count(ctx, worker)
		}
		err = errors.Join(err, worker.Close())
	}
	stop()
	return errors.Join(err, <-done)
}

// operators returns a pool whose statements are counted apart.
func (w *world) operators(ctx context.Context) (*pgxpool.Pool, error) {
	if _, err := w.db.Exec(ctx, "CREATE ROLE operator SUPERUSER LOGIN"); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(w.url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.User = "operator"
	return pgxpool.NewWithConfig(ctx, config)
}

// idleSlack is the factor of the short form for what an idle worker costs, which depends on how busy the machine is less than latency does.
const idleSlack = 10

// count prints statements and CPU time a second. The server counts the statements that come from outside, what begins and ends a
// transaction included; the question for them is not the worker's.
func (w *world) count(ctx context.Context, worker *lab.Workers) error {
	if _, err := w.db.Exec(ctx, "SELECT pg_stat_statements_reset()"); err != nil {
		return err
	}
	meter, err := w.server.Measure()
	if err != nil {
		return err
	}
	before, err := worker.Spent()
	if err != nil {
		return err
	}
	period := w.options.idle
	time.Sleep(period)
	after, err := worker.Spent()
	if err != nil {
		return err
	}
	cost, err := meter.Stop()
	if err != nil {
		return err
	}
	var all int64
	err = w.db.QueryRow(ctx, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
		WHERE userid <> 'operator'::regrole AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query NOT LIKE '%pg_stat_statements%'`).Scan(&all)
	if err != nil {
		return err
	}
	share := func(d time.Duration) float64 { return 100 * d.Seconds() / period.Seconds() }
	w.figures = append(w.figures,
		lab.Figure{Work: "idle, 16 segments", Unit: "statements/s", Rounds: []float64{float64(all) / period.Seconds()}, Goal: 5, AtMost: true, Slack: idleSlack},
		lab.Figure{Work: "idle, 16 segments", Unit: "% of a core, the worker", Rounds: []float64{share(after - before)}, Goal: 0.5, AtMost: true, Slack: idleSlack})
	fmt.Printf("\nIdle, 16 segments: %.1f statements/s; of a core, the worker %.2f %% and the server %.2f %%\n",
		float64(all)/period.Seconds(), share(after-before), share(cost.Server))
	return nil
}
