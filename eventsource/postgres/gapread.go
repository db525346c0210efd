package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
)

// readGapsStatement gives a page of a table without a column of transactions. The parameters are the gaps (first and last positions), the tail, and the
// limit. The first row tells of the page, as in readStatement; its stream tells of the server too. Then come the events in gaps, and those above the tail, by position: all in one statement, since
// a stream's earlier event may stand in a gap, and its next one above the tail. Where events wait for those before them in their streams, a last column has
// the position of that one, 0 if there is none.
const readGapsStatement = `
SELECT 0::bigint AS position, '3'::xid8 AS txid, {{about}} AS stream_id,
       coalesce(nullif({{state}}, ''), pg_current_snapshot()::text) AS type, 'epoch'::timestamptz AS recorded_at{{none}}
UNION ALL (
  SELECT {{columns}}
  FROM (
    SELECT late.* FROM unnest($1::bigint[], $2::bigint[]) AS gap (low, high)
     CROSS JOIN LATERAL (
       SELECT {{events}} FROM {{table}} e WHERE e.{{position}} >= gap.low AND e.{{position}} <= gap.high
        ORDER BY e.{{position}} LIMIT $4) AS late
  ) AS u
  ORDER BY u.position LIMIT $4)
UNION ALL (
  SELECT {{columns}}
  FROM (
    SELECT {{events}} FROM {{table}} e WHERE e.{{position}} > $3::bigint ORDER BY e.{{position}} LIMIT $4
  ) AS u)`

// roundStatement gives the sequence's last number and, looked up after that was read, who holds the lock of those that take numbers from it: a
// materialized row is copied before the correlated array is computed. What sessions of other roles do is known to members of pg_read_all_stats only; without, they
// are not known to be still. It is one statement, so that it runs on one server.
const roundStatement = `
WITH read AS MATERIALIZED (SELECT ({{mark}}) AS mark)
SELECT read.mark, ` + serverOf + `, {{shape}}, ARRAY(
  SELECT l.virtualtransaction || ' ' ||
         CASE WHEN l.pid IS NULL THEN 'prepared'
              WHEN a.state IN ('idle in transaction', 'idle in transaction (aborted)') THEN extract(epoch FROM a.query_start)::text || '-' || extract(epoch FROM a.state_change)::text
              ELSE '' END
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
   WHERE read.mark IS NOT NULL AND l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND l.relation = $1::regclass AND l.mode = 'RowExclusiveLock' AND l.granted)
  FROM read`

// serverOf changes whenever a server has crashed or was started.
const serverOf = `extract(epoch FROM pg_postmaster_start_time())::text || ' ' || coalesce(extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time())::text, '')`

// proofEvery is the shortest time between two rounds of proof.
const proofEvery = time.Second

// gapReader is what a source knows of the gaps of a table, for all who read it. Nothing of it is needed again after a restart.
type gapReader struct {
	// reserved says that nothing can be proved: positions are taken at any time.
	reserved bool

	rounds sync.Mutex // held by the one that takes a round

	mu     sync.Mutex
	server string // of which all this is
	shape  string // of the table, of which all this is
	fence  fence
	proved proved
	round  time.Time // when the last one began
	busy   bool      // one is running
}

// newGapReader returns nil for a table that has a column of transactions.
func newGapReader(t *definition.Table) *gapReader {
	if t == nil || t.Columns.Transaction != "" {
		return nil
	}
	return &gapReader{reserved: t.Positions == definition.PositionsReserved}
}

var (
	// ErrTooManyGaps is returned where nothing more can be read before writers that took positions have ended. It is worth trying again.
	ErrTooManyGaps = errors.New("too many positions are open")
	// ErrServerRestarted is returned where coverages in memory are of the time before a crash. It
	// wraps eventsource.ErrStale.
	ErrServerRestarted = fmt.Errorf("the server was started again: %w", eventsource.ErrStale)
)

// readGapped is Read for a table without a column of transactions.
func (s *Source) readGapped(ctx context.Context, k *known, p *pageBuilder, from []*gapped, limit int) (eventsource.Page, error) {
	proved, err := s.prove(ctx, k, from)
	if err != nil {
		return eventsource.Page{}, err
	}
	now := time.Now()
	q := ask(from, proved, !s.gaps.reserved || dueForAll(from, now), now, limit)
	p.linked = true
	full, err := s.fillGaps(ctx, k, q, p, limit)
	if err != nil {
		return eventsource.Page{}, err
	}
	if err := s.judge(k, p, from); err != nil {
		return eventsource.Page{}, err
	}
	if s.events.separate {
		q.proved.settled = q.proved.settled.upTo(p.origin.newest.position)
	}
	if q.server = p.server; !s.gaps.same(q) {
		return eventsource.Page{}, ErrServerRestarted
	}
	a := q.answered(p.links, full)
	if q.stuck(a, full) {
		return eventsource.Page{}, s.tooMany(a)
	}
	events := inOrder(p.events, a)
	return eventsource.Page{Events: events, More: full || a.upTo < p.last() || q.another(a), Spacing: eventsource.Spacing(events), After: a.after}, nil
}

// fillGaps asks the question.
func (s *Source) fillGaps(ctx context.Context, k *known, q question, p *pageBuilder, limit int) (full bool, err error) {
	low, high := make([]int64, len(q.gaps)), make([]int64, len(q.gaps))
	for i, g := range q.gaps {
		low[i], high[i] = g.from, g.to
	}
	return s.readPage(ctx, k, p, limit, low, high, q.tail, limit)
}

// judge returns an error where the sequence has not given out all positions that are known. Its
// last number was read after the page's snapshot was taken, so it has given out the positions of
// all rows of the page, if they come from there.
func (s *Source) judge(k *known, p *pageBuilder, from []*gapped) error {
	if s.gaps.reserved {
		return nil
	}
	if p.mark < 0 {
		return errAltered
	}
	sequence := k.facts.sequences[0].name
	for _, c := range from {
		if p.mark < c.Position() {
			return s.setBack(sequence, p.mark, c.Position())
		}
	}
	if p.mark < p.last() {
		return behind(s.events.table.Name, sequence, p.mark, p.last())
	}
	return nil
}

// same reports whether a page comes from the server of all that its question was made of. What is known of another one is forgotten: a server that
// crashes may give numbers out again that left nothing on disk.
func (g *gapReader) same(q question) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.meet(q.server)
	if q.proved.server != "" && q.proved.server != q.server {
		return false
	}
	for _, c := range q.from {
		if c.server != "" && c.server != q.server {
			return false
		}
	}
	return true
}

// meet forgets what is not of this server. The caller holds the lock.
func (g *gapReader) meet(server string) {
	if g.server != server {
		g.server, g.fence, g.proved = server, fence{}, proved{}
	}
}

// meetShape forgets what was proved before the table was altered. The caller holds the lock.
func (g *gapReader) meetShape(shape string) {
	if g.shape != shape {
		g.shape, g.fence, g.proved, g.round = shape, fence{}, proved{}, time.Time{}
	}
}

// dueForAll reports whether it is time to look at all gaps again where positions are reserved: the more there are, the more rarely, every
// second for a thousand.
func dueForAll(from []*gapped, now time.Time) bool {
	for _, c := range from {
		if now.Sub(c.pace.looked) >= time.Duration(len(c.set))*time.Millisecond {
			return true
		}
	}
	return false
}

// tooMany says what is waited for.
func (s *Source) tooMany(a answer) error {
	if len(a.held) > 0 {
		return fmt.Errorf("%w: %d ranges of positions are open, or %d events wait for others of their streams at higher positions, which cannot be read before: declare order: None",
			ErrTooManyGaps, mostGaps, mostWaiting)
	}
	if s.gaps.reserved {
		return fmt.Errorf("%w: %d ranges of positions below the highest one have no event, as positions far apart or in blocks leave, and as they are Reserved it cannot be known which of them will have one: have `sluice source prepare` add the column for columns.transaction, which has no such limit, and start the processing groups anew",
			ErrTooManyGaps, mostGaps)
	}
	return fmt.Errorf("%w: %d ranges of positions below the highest one have no event yet. Nothing is lost: reading goes on by itself when the transactions have ended that may still insert there, such as an import in one statement beside other writers. They are named by status.openWriters, and by "+
		"SELECT pid, mode FROM pg_locks WHERE relation = '%s'::regclass. If that is usual here, have `sluice source prepare` add the column for columns.transaction, which has no such limit, and start the processing groups anew",
		ErrTooManyGaps, mostGaps, strings.ReplaceAll(s.sequence(), "'", "''"))
}

// prove returns the settled positions. If there are gaps it takes a round of proof before, unless there was one within the last second.
func (s *Source) prove(ctx context.Context, k *known, from []*gapped) (proved, error) {
	g := s.gaps
	if g.reserved {
		return proved{}, nil
	}
	g.mu.Lock()
	g.meetShape(k.shape)
	known, first := g.proved, g.round.IsZero()
	due := !g.busy && time.Since(g.round) >= proofEvery && (first || slices.ContainsFunc(from, func(c *gapped) bool { return len(c.set) > 1 || len(c.set) == 1 && c.set[0].from > 1 }))
	if due {
		g.busy, g.round = true, time.Now()
	}
	g.mu.Unlock()
	if !due {
		return known, nil
	}
	defer func() {
		g.mu.Lock()
		g.busy = false
		g.mu.Unlock()
	}()
	if first {
		// Who is open now may have taken any position up to now. From the third round on it is known who has done nothing.
		for range 2 {
			if _, err := s.takeRound(ctx, k, from); err != nil {
				return proved{}, err
			}
		}
	}
	return s.takeRound(ctx, k, from)
}

// takeRound reads the sequence's last number, and after that who holds its lock. Rounds come one
// after the other. What it finds is believed by pages of the same shape only: so nobody has altered
// the sequence from before its number was read until after the page looked.
func (s *Source) takeRound(ctx context.Context, k *known, from []*gapped) (proved, error) {
	g := s.gaps
	g.rounds.Lock()
	defer g.rounds.Unlock()
	sequence := k.facts.sequences[0].name
	var number *int64 // nil while the sequence is being rewritten
	var server, shape string
	var found []string
	if err := s.queryRow(ctx, k.round, []any{sequence}, &number, &server, &shape, &found); err != nil {
		return proved{}, fmt.Errorf("looking for writers that took positions from %s: %w", sequence, err)
	}
	if shape != k.shape || number == nil {
		return proved{}, errAltered
	}
	mark := *number
	for _, c := range from {
		if mark < c.Position() {
			return proved{}, s.setBack(sequence, mark, c.Position())
		}
	}
	now := holders{}
	for _, h := range found {
		id, since, _ := strings.Cut(h, " ")
		now[id] = stillness{since, since == "prepared"}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.meet(server)
	g.meetShape(shape)
	if before, back := g.fence.note(mark, now); back {
		return proved{}, s.setBack(sequence, mark, before)
	}
	g.proved = proved{g.fence.settled(), server}
	return g.proved, nil
}
