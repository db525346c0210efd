package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// An append that finds enough others under way waits for one of them to end, and then shares a transaction, and one message to the server, with
// those that have come meanwhile. So the more come at once, the less each costs, and one that comes alone waits for nobody. None fails for
// another's sake: what a shared transaction could not append is appended alone.
const (
	// mostUnderWay is how many transactions are under way until appends share.
	mostUnderWay = 4
	// mostShare and mostSharedBytes are how many appends share a transaction at most, and with how much data.
	mostShare       = 64
	mostSharedBytes = 1 << 20
	// sharePatience is how long a transaction counts as under way: those that wait longer for others must not hold up everybody. It is
	// also how long a shared one waits for a lock before its appends go on alone, of which those then wait that have to.
	sharePatience = 20 * time.Millisecond
)

// sharing has appends share transactions.
type sharing struct {
	mu       sync.Mutex
	underWay int
	waiting  []*appending
}

// appending is an append, until it is done.
type appending struct {
	ctx      context.Context
	stream   string
	expected Version
	events   []encoded

	done    chan struct{}
	version Version
	err     error
}

func (a *appending) end(version Version, err error) {
	a.version, a.err = version, err
	close(a.done)
}

// bytes of its data.
func (a *appending) bytes() (n int) {
	for _, e := range a.events {
		n += len(e.Data) + len(e.Metadata)
	}
	return n
}

// appendShared appends in a transaction of this append's own, or in one that it shares.
func (l *Log) appendShared(ctx context.Context, stream string, expected Version, events []encoded) (Version, error) {
	s := &l.sharing
	s.mu.Lock()
	if s.underWay < mostUnderWay {
		s.underWay++
		s.mu.Unlock()
		defer l.under()()
		return l.appendAlone(ctx, stream, expected, events)
	}
	a := &appending{ctx: ctx, stream: stream, expected: expected, events: cloned(events), done: make(chan struct{})}
	s.waiting = append(s.waiting, a)
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.version, a.err
	case <-ctx.Done(): // whether it has been appended is not known, as ever, unless it still waits
		s.withdraw(a)
		return 0, fmt.Errorf("appending to stream %q: %w", stream, ctx.Err())
	}
}

// cloned are events with data of their own: a caller that does not wait any more may use its bytes for something else.
func cloned(events []encoded) []encoded {
	all := slices.Clone(events)
	for i := range all {
		all[i].Data, all[i].Metadata = bytes.Clone(all[i].Data), bytes.Clone(all[i].Metadata)
	}
	return all
}

// withdraw takes an append back, if it still waits.
func (s *sharing) withdraw(a *appending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, a); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
}

// under begins a transaction's time under way, and returns what ends it. Where that takes too long, others go on before.
func (l *Log) under() (ended func()) {
	once := sync.OnceFunc(l.next)
	late := time.AfterFunc(sharePatience, once)
	return func() { late.Stop(); once() }
}

// next lets those go on that wait for a transaction that was under way.
func (l *Log) next() {
	s := &l.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, 0
	for n < min(len(s.waiting), mostShare) && (n == 0 || bytes < mostSharedBytes) {
		bytes += s.waiting[n].bytes()
		n++
	}
	if n == 0 {
		s.underWay--
		return
	}
	share := slices.Clone(s.waiting[:n])
	s.waiting = slices.Delete(s.waiting, 0, n)
	go l.appendAll(share)
}

// appendAll appends for those that share a transaction. What could not be appended in it goes on alone.
func (l *Log) appendAll(all []*appending) {
	defer l.under()()
	if len(all) == 1 {
		l.goOnAlone(all[0])
		return
	}
	for _, a := range l.appendTogether(all) {
		go l.goOnAlone(a)
	}
}

func (l *Log) goOnAlone(a *appending) { a.end(l.appendAlone(a.ctx, a.stream, a.expected, a.events)) }

// appendTogether appends in one transaction and returns those that it has appended nothing for. Streams come in the order of their ids, so that such
// transactions never wait for one another in a circle, and the appends to one of them in the order in which they came.
func (l *Log) appendTogether(all []*appending) (left []*appending) {
	slices.SortStableFunc(all, func(a, b *appending) int { return cmp.Compare(a.stream, b.stream) })
	ctx, cancel := whileAnyWaits(all)
	defer cancel()
	versions, err := l.sendTogether(ctx, all)
	if isRolledBack(err) {
		return all
	}
	l.notifier.notify()
	for i, a := range all {
		switch {
		case err != nil:
			a.end(0, fmt.Errorf("appending to stream %q: %w", a.stream, err))
		case versions[i] == 0:
			left = append(left, a)
		default:
			a.end(versions[i], nil)
		}
	}
	return left
}

// impatient ends a shared transaction that waits for another, by the error 55P03.
var impatient = fmt.Sprintf("SELECT set_config('lock_timeout', '%d', true)", sharePatience.Milliseconds())

// sendTogether sends all as one message, which is one transaction, and returns the streams' new versions, 0 where none was made.
func (l *Log) sendTogether(ctx context.Context, all []*appending) ([]Version, error) {
	var batch pgx.Batch
	batch.Queue(impatient)
	versions := make([]Version, len(all))
	for i, a := range all {
		// Of one event a version that is taken makes no row. Of several it fails, and with it all, rather than make some of them.
		sql, args := l.insertion(len(a.events) == 1, a.stream, a.expected, a.events)
		made := Version(len(a.events))
		if a.expected == Any {
			batch.Queue(sql, args...).Query(func(rows pgx.Rows) error {
				first, err := pgx.CollectRows(rows, pgx.RowTo[Version])
				if len(first) > 0 {
					versions[i] = first[0] + made - 1
				}
				return err
			})
			continue
		}
		batch.Queue(sql, args...).Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() > 0 {
				versions[i] = a.expected + made
			}
			return nil
		})
	}
	return versions, l.db.SendBatch(ctx, &batch).Close()
}

// whileAnyWaits returns a context that ends when nobody waits any more for any of the appends.
func whileAnyWaits(all []*appending) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	var left atomic.Int64
	left.Store(int64(len(all)))
	var stops []func() bool
	for _, a := range all {
		stops = append(stops, context.AfterFunc(a.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		}))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// isRolledBack reports whether an error says that the server has undone the transaction. After any other it is not known.
func isRolledBack(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.SeverityUnlocalized == "ERROR"
}
