package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// writers do to the event table whatever a reader might stumble over.
type writers struct {
	t  *testing.T
	on *subject

	committed, rolledBack, savepoints, prepared, bulk, copied, deadlocks atomic.Int64
	names, died                                                          atomic.Int64
}

// run starts the writers and waits until all of them have ended after about the time given.
func (w *writers) run(count int, during time.Duration) {
	exec(w.t, w.on.db, "CREATE TABLE IF NOT EXISTS elsewhere (n integer)")
	ctx, cancel := context.WithTimeout(context.Background(), during)
	defer cancel()
	var wg sync.WaitGroup
	loop := func(n int, do func(*rand.Rand) error) {
		random := rand.New(rand.NewPCG(uint64(n), uint64(time.Now().UnixNano())))
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := do(random); err != nil {
					w.t.Errorf("writer %d: %v", n, err)
					return
				}
			}
		})
	}
	for n := range count {
		loop(n, w.transaction)
	}
	loop(count, w.insertMany)
	loop(count+1, w.copy)
	loop(count+2, w.storm)
	wg.Wait()
}

// hold keeps a transaction open: mostly for some milliseconds, at times for up to 1.5 seconds, and ten where the run is a long one.
func hold(random *rand.Rand) {
	most := 20 * time.Millisecond
	switch random.IntN(20) {
	case 0:
		most = 1500 * time.Millisecond
		if longRun() > 0 {
			most = 10 * time.Second
		}
	case 1, 2:
		most = 300 * time.Millisecond
	}
	time.Sleep(time.Duration(random.Int64N(int64(most))))
}

func (w *writers) transaction(random *rand.Rand) error {
	if random.IntN(4) == 0 {
		err := w.on.append(context.Background(), stream(random), 1+random.IntN(5))
		w.committed.Add(1)
		return err
	}
	return w.in(random, func(ctx context.Context, tx pgx.Tx) error {
		if random.IntN(5) == 0 {
			if _, err := tx.Exec(ctx, "INSERT INTO elsewhere VALUES (1)"); err != nil {
				return err
			}
			hold(random)
		}
		if random.IntN(5) == 0 {
			if err := w.savepoint(ctx, random, tx); err != nil {
				return err
			}
		}
		for range 1 + random.IntN(2) {
			if err := w.on.appendTx(ctx, tx, stream(random), 1+random.IntN(5)); err != nil {
				return err
			}
		}
		hold(random)
		return nil
	})
}

// savepoint appends within a subtransaction, which it undoes every other time.
func (w *writers) savepoint(ctx context.Context, random *rand.Rand, tx pgx.Tx) error {
	undo := errors.New("back to the savepoint")
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		if err := w.on.appendTx(ctx, tx, stream(random), 1+random.IntN(5)); err != nil {
			return err
		}
		if random.IntN(2) == 0 {
			return undo
		}
		return nil
	})
	if errors.Is(err, undo) {
		err = nil
	}
	w.savepoints.Add(1)
	return err
}

// in does something in a transaction and ends it somehow: commit, rollback, or two phases with another hold between them.
func (w *writers) in(random *rand.Rand, do func(context.Context, pgx.Tx) error) error {
	ctx := context.Background()
	conn, err := w.on.db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if err := do(ctx, tx); err != nil {
		if isDeadlock(err) {
			w.deadlocks.Add(1)
			return nil
		}
		return err
	}
	if random.IntN(15) == 0 {
		w.die(ctx, random, conn, tx)
		return nil
	}
	switch n := random.IntN(10); {
	case n < 2:
		w.rolledBack.Add(1)
		return tx.Rollback(ctx)
	case n > 2:
		w.committed.Add(1)
		return tx.Commit(ctx)
	}
	name := fmt.Sprintf("'two-phases-%d-%d'", conn.Conn().PgConn().PID(), w.names.Add(1)) // of all databases
	if _, err := conn.Exec(ctx, "PREPARE TRANSACTION "+name); err != nil {
		return err
	}
	hold(random)
	w.prepared.Add(1)
	end := "COMMIT PREPARED "
	if random.IntN(5) == 0 {
		end = "ROLLBACK PREPARED "
	}
	_, err = conn.Exec(ctx, end+name)
	return err
}

// die ends a transaction as crashes do: its backend is terminated, at times while it commits, or its client is gone.
func (w *writers) die(ctx context.Context, random *rand.Rand, conn *pgxpool.Conn, tx pgx.Tx) {
	w.died.Add(1)
	defer conn.Conn().Close(ctx) // nobody else may get it
	if random.IntN(3) == 0 {
		conn.Conn().PgConn().Conn().Close()
		return
	}
	var terminating sync.WaitGroup
	pid := conn.Conn().PgConn().PID()
	terminating.Go(func() {
		if _, err := w.on.db.Exec(ctx, "SELECT pg_terminate_backend($1)", pid); err != nil {
			w.t.Errorf("terminating a writer: %v", err)
		}
	})
	if random.IntN(2) == 0 {
		tx.Commit(ctx) // it is not known how that ends
	}
	terminating.Wait()
}

// insertMany writes 5,000 rows with one statement.
func (w *writers) insertMany(random *rand.Rand) error {
	return w.in(random, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, w.on.insert+`
			SELECT $1 || (n - 1) / 100, 1 + (n - 1) % 100, 'Imported', '{}' FROM generate_series(1, 5000) n`, fmt.Sprintf("many-%d-", w.names.Add(1)))
		time.Sleep(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
		w.bulk.Add(1)
		return err
	})
}

func (w *writers) copy(random *rand.Rand) error {
	return w.in(random, func(ctx context.Context, tx pgx.Tx) error {
		name := fmt.Sprintf("copy-%d", w.names.Add(1))
		n, err := tx.CopyFrom(ctx, w.on.copyTo, w.on.columns,
			pgx.CopyFromSlice(200, func(i int) ([]any, error) { return []any{name, i + 1, "Copied", "{}"}, nil }))
		time.Sleep(time.Duration(random.Int64N(int64(800 * time.Millisecond))))
		w.copied.Add(n)
		return err
	})
}

// storm appends and rolls back, as fast as it can.
func (w *writers) storm(random *rand.Rand) error {
	undo := errors.New("rolled back")
	err := pgx.BeginFunc(context.Background(), w.on.db, func(tx pgx.Tx) error {
		if err := w.on.appendTx(context.Background(), tx, "storm", 2); err != nil {
			return err
		}
		return undo
	})
	w.rolledBack.Add(1)
	if errors.Is(err, undo) {
		return nil
	}
	return err
}

func isDeadlock(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "40P01"
}

func stream(random *rand.Rand) string { return fmt.Sprint("stream-", random.IntN(150)) }
