package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
)

// gapReader reads as Axon Framework does: by an index and the gaps below it.
type gapReader struct {
	index   int64
	gaps    []int64
	handled map[int64]int
}

// next handles some of the events that it finds, in the order of their positions.
func (g *gapReader) next(t *testing.T, db *pgxpool.Pool, limit, most int) (found int) {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT id::bigint FROM outbox WHERE id > $1 OR id = ANY ($2) ORDER BY id LIMIT $3", g.index, g.gaps, limit)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids[:min(len(ids), most)] {
		g.handled[id]++
		if i := slices.Index(g.gaps, id); i >= 0 {
			g.gaps = slices.Delete(g.gaps, i, i+1)
			continue
		}
		for gap := g.index + 1; gap < id; gap++ {
			g.gaps = append(g.gaps, gap)
		}
		g.index = id
	}
	return len(ids)
}

// Whoever goes on for a reader with gaps is given what that one has not handled, whatever is open, rolled back or has just become visible; also in the middle
// of a transaction.
func TestWhoGoesOnForAReaderWithGapsGetsTheRestOnce(t *testing.T) {
	on := outboxTable(t, "")
	goOnForReadersWithGaps(t, on, 60, func() {})
}

// goOnForReadersWithGaps tries some rounds with a table that was emptied, before each of which it calls anew, and more of them until they say something.
func goOnForReadersWithGaps(t *testing.T, on *subject, rounds int, anew func()) {
	db := on.db
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	leftOut, late := 0, 0
	enough := func() bool { return leftOut >= 2 && late >= 20 }
	round := 0
	for ; round < rounds || !enough() && round < 8*rounds; round++ {
		exec(t, db, "TRUNCATE outbox RESTART IDENTITY")
		anew()
		g := &gapReader{handled: map[int64]int{}}
		var open []pgx.Tx
		end := func() {
			i := random.IntN(len(open))
			if random.IntN(4) == 0 {
				open[i].Rollback(t.Context())
			} else if err := open[i].Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			open = slices.Delete(open, i, i+1)
		}
		for step := range 40 {
			switch n := random.IntN(10); {
			case n < 2 && len(open) < 6:
				tx, err := db.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, tx)
			case n < 6 && len(open) > 0:
				tx := open[random.IntN(len(open))]
				if _, err := tx.Exec(t.Context(), "INSERT INTO outbox (aggregate, number, type) SELECT $1, n, 'T' FROM generate_series(1, $2::integer) AS n", fmt.Sprint(round, "-", step), 1+random.IntN(3)); err != nil {
					t.Fatal(err)
				}
			case n < 8 && len(open) > 0:
				end()
			default:
				g.next(t, db, 1+random.IntN(5), 1+random.IntN(5))
			}
		}
		for len(open) > 2 { // become visible behind the reader
			end()
		}
		if random.IntN(2) == 0 {
			g.next(t, db, 5, 1+random.IntN(3)) // to the middle of something
		}
		progress, err := given(t, on, g)
		if err != nil {
			t.Fatal(err)
		}
		if postgres.Steps(parsed(t, on, progress)) > 1 {
			leftOut++
		}
		for len(open) > 0 {
			end()
		}
		late += restGoesOn(t, on, g, progress)
	}
	t.Logf("%d rounds, %d with events left out above others, %d events below the index given afterwards", round, leftOut, late)
	if !enough() {
		t.Error("too few of them: this run says nothing")
	}
}

// A transaction of which a later event has been handled and an earlier one has not cannot be said: that of all rows from before the preparation, say.
func TestATransactionThatWasHandledInPartIsRefused(t *testing.T) {
	on := outboxTable(t, "")
	exec(t, on.db, "INSERT INTO outbox (aggregate, number, type) SELECT 'a', n, 'T' FROM generate_series(1, 5) AS n")
	for _, test := range []struct {
		gaps  []int64
		exact bool
	}{{[]int64{2}, false}, {[]int64{1, 2, 4}, false}, {[]int64{4, 5}, true}, {[]int64{1, 2, 3, 4, 5}, true}, {[]int64{-3, 0}, true}} {
		_, err := given(t, on, &gapReader{index: 5, gaps: test.gaps})
		if test.exact != (err == nil) || err != nil && !errors.Is(err, postgres.ErrInexact) {
			t.Errorf("gaps %v: error %v", test.gaps, err)
		}
	}
}

func given(t *testing.T, on *subject, g *gapReader) (p progress.Progress, err error) {
	t.Helper()
	tx, err := on.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	return on.source.Given(t.Context(), tx, g.index, g.gaps)
}

func parsed(t *testing.T, on *subject, p progress.Progress) eventsource.Coverage {
	t.Helper()
	c, err := on.source.Parse(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// restGoesOn reads on from the progress, and fails unless every event has been handled once.
func restGoesOn(t *testing.T, on *subject, g *gapReader, from progress.Progress) (late int) {
	t.Helper()
	r := &reader{t: t, source: on.source}
	r.resume(from)
	for more := true; more; {
		page := r.next(7)
		more = page.More
		for _, e := range page.Events {
			g.handled[e.Position]++
			if e.Position <= g.index {
				late++
			}
		}
	}
	for position := range committed(t, on) {
		if n := g.handled[position]; n != 1 {
			t.Fatalf("position %d handled %d times; the reader was at %d with gaps %v, and the progress is %v", position, n, g.index, g.gaps, from)
		}
	}
	return late
}
