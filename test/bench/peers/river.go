package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/sluice-project/sluice/test/bench/ledger"
)

// quiet logs only what has gone wrong.
var quiet = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))

// riverAs is River with some settings: a job for each event, which its worker completes in the transaction in which it writes
// (JobCompleteTx), so exactly once. Jobs run side by side, in no order: that of a stream's events cannot be asked for.
type riverAs struct {
	workers  int
	conns    int32 // of the pool; 0 for pgx's default, 4 or the number of processors
	cooldown time.Duration
}

var (
	riverDefaults = riverAs{workers: 100} // as its README has it: the number has no default; cooldown 100 ms
	riverBest     = riverAs{workers: 1000, conns: 32, cooldown: 20 * time.Millisecond}
)

// Booking is a job for an event.
type Booking struct {
	Stream   string          `json:"stream"`
	Position int64           `json:"position"`
	Data     json.RawMessage `json:"data"`
}

// Kind is the job's name.
func (Booking) Kind() string { return "booking" }

// prepare makes the jobs: those of the run before are completed.
func (c riverAs) prepare(ctx context.Context, r *run) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(r.DB), &rivermigrate.Config{Logger: quiet})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	if _, err := r.DB.Exec(ctx, "TRUNCATE river_job"); err != nil {
		return err
	}
	_, err = r.DB.Exec(ctx, `INSERT INTO river_job (args, kind, max_attempts)
		SELECT jsonb_build_object('stream', stream_id, 'position', position, 'data', data), 'booking', $2
		  FROM sluice.event WHERE position > $1 ORDER BY position`, r.Events-r.handled(), river.MaxAttemptsDefault)
	if err != nil {
		return err
	}
	_, err = r.DB.Exec(ctx, "VACUUM (ANALYZE) river_job")
	return err
}

func (c riverAs) run(ctx context.Context, r *run) error {
	ctx, stop := context.WithTimeout(ctx, 10*time.Minute)
	defer stop()
	config, err := pgxpool.ParseConfig(r.URL)
	if err != nil {
		return err
	}
	if c.conns > 0 {
		config.MaxConns = c.conns
	}
	db, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer db.Close()
	handled := &countdown{left: r.handled(), done: make(chan struct{})}
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &bookings{db: db, statement: fmt.Sprintf(ledger.One, r.table), handled: handled}); err != nil {
		return err
	}
	client, err := river.NewClient(riverpgxv5.New(db), &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: c.workers}},
		Workers: workers, FetchCooldown: c.cooldown, Logger: quiet,
	})
	if err != nil {
		return err
	}
	err = r.time(func() error {
		if err := client.Start(ctx); err != nil {
			return err
		}
		select {
		case <-handled.done:
			return nil
		case <-ctx.Done():
			return errors.New("not all jobs were done in ten minutes")
		}
	})
	return errors.Join(err, client.Stop(ctx))
}

// bookings applies jobs.
type bookings struct {
	river.WorkerDefaults[Booking]
	db        *pgxpool.Pool
	statement string
	handled   *countdown
}

// Work applies one.
func (b *bookings) Work(ctx context.Context, job *river.Job[Booking]) error {
	amount, err := amount(job.Args.Data)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, b.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, b.statement, job.Args.Stream, amount, ledger.Hash(job.Args.Position, amount), job.Args.Position); err != nil {
			return err
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
	if err != nil {
		return err
	}
	b.handled.one()
	return nil
}
