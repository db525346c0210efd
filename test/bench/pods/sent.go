package main

import (
	"context"
	"fmt"

	"github.com/sluice-project/sluice/test/bench/lab"
)

// sent is what the database sent to the workers that read events.
type sent struct {
	rows, pages int64 // rows of all pages; a row a page tells of the page
	of          int64 // events that there were
}

// events is how many rows were sent for each event.
func (s sent) events() float64 { return float64(s.rows-s.pages) / float64(s.of) }

// all is the same with the rows that tell of pages.
func (s sent) all() float64 { return float64(s.rows) / float64(s.of) }

func (s sent) String() string {
	return fmt.Sprintf("%d events, %d rows with events in %d pages, %.3f and with the pages' own rows %.3f an event", s.of, s.rows-s.pages, s.pages, s.events(), s.all())
}

// reset has the server count anew.
func (w *world) reset(ctx context.Context) error {
	_, err := w.events.DB.Exec(ctx, "SELECT pg_stat_statements_reset()")
	return err
}

// sent asks how many rows the statement that reads events has sent. Nothing else asks for the rows' transaction and data.
func (w *world) sent(ctx context.Context) (s sent, err error) {
	var statements int
	err = w.events.DB.QueryRow(ctx, `SELECT count(*), coalesce(sum(rows), 0)::bigint, coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
		WHERE query LIKE '%pg_snapshot_xip(band.snapshot%'`).Scan(&statements, &s.rows, &s.pages)
	if err == nil && (statements == 0 || s.rows == 0) {
		err = fmt.Errorf("the statement that reads events was not found among those that the server has counted")
	}
	return s, err
}

// figures are the ratios of all rounds.
func (w *world) figures() []lab.Figure {
	var figures []lab.Figure
	for _, part := range []struct {
		name string
		all  []sent
	}{{"catching up", w.catchUp}, {"at the tail", w.atTail}} {
		events := lab.Figure{Work: "four pods, 16 segments, " + part.name, Unit: "rows with events sent, × events", Goal: 1.1, AtMost: true}
		all := lab.Figure{Work: events.Work, Unit: "the same and a row for each page read"}
		for _, s := range part.all {
			events.Rounds, all.Rounds = append(events.Rounds, s.events()), append(all.Rounds, s.all())
		}
		figures = append(figures, events, all)
	}
	return figures
}
