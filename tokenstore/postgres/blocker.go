package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Blocker is a session that somebody waits for.
type Blocker struct {
	PID         uint32
	Application string
	State       string
	Since       time.Time // when its transaction began
}

func (b Blocker) String() string {
	return fmt.Sprintf("pid %d, application %q, %s, whose transaction began at %s", b.PID, b.Application, b.State, b.Since.UTC().Format(time.TimeOnly))
}

// Blocked names those that somebody waits for: the first one, and how many more there are. It is
// empty for none.
func Blocked(by []Blocker) string {
	switch len(by) {
	case 0:
		return ""
	case 1:
		return by[0].String()
	}
	return fmt.Sprintf("%s (and %d more)", by[0], len(by)-1)
}

const blockerColumns = `a.pid, coalesce(a.application_name, ''), coalesce(a.state, ''), coalesce(a.xact_start, clock_timestamp())`

// blockers returns who a backend waits for.
func blockers(ctx context.Context, pool *pgxpool.Pool, pid uint32) ([]Blocker, error) {
	rows, err := pool.Query(ctx, `SELECT `+blockerColumns+` FROM pg_stat_activity a WHERE pid = ANY (pg_blocking_pids($1)) ORDER BY xact_start`, int32(pid))
	if err != nil {
		return nil, fmt.Errorf("looking who blocks backend %d: %w", pid, err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Blocker])
}

// A lockWatch finds out who holds the locks that a backend waits for, while it waits: afterwards
// nobody can tell.
type lockWatch struct {
	stop context.CancelFunc
	done chan struct{}
	last []Blocker // of the loop, until end
}

// watchEvery is how often a watched backend is asked for whom it waits.
const watchEvery = 250 * time.Millisecond

func watchBlockers(ctx context.Context, pool *pgxpool.Pool, pid uint32) *lockWatch {
	w := &lockWatch{done: make(chan struct{})}
	ctx, w.stop = context.WithCancel(ctx)
	go w.run(ctx, pool, pid)
	return w
}

func (w *lockWatch) run(ctx context.Context, pool *pgxpool.Pool, pid uint32) {
	defer close(w.done)
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// An error leaves out who it is; what failed for want of the lock tells of that itself.
		if by, err := blockers(ctx, pool, pid); err == nil && len(by) > 0 {
			w.last = by
		}
	}
}

// end stops the watch and returns who was met last.
func (w *lockWatch) end() []Blocker {
	w.stop()
	<-w.done
	return w.last
}

// holders selects the backends of this database that hold an advisory lock of one name, $1.
const holders = ` FROM pg_locks l JOIN pg_stat_activity a USING (pid), ` + lockOf + ` AS key
	WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database()
	  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	  AND l.classid::bigint = (key >> 32) & 4294967295 AND l.objid::bigint = key & 4294967295`

// readHolders returns who holds the advisory lock of a name.
func readHolders(ctx context.Context, pool *pgxpool.Pool, name string) ([]Blocker, error) {
	rows, err := pool.Query(ctx, `SELECT `+blockerColumns+holders, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Blocker])
}

// terminateHolder ends the backend that holds the advisory lock of a name, and returns how many
// there were.
func terminateHolder(ctx context.Context, pool *pgxpool.Pool, name string) (ended int, err error) {
	err = pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))`+holders+` AND a.usename = current_user`, name).Scan(&ended)
	return ended, err
}
