package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// window is the number of positions that one read looks at above the tail, so that a page of few wanted events among many is
// an end too.
const window = 200_000

// readStatement gives a page and what it was read from. The parameters are the bands (lower ends, upper ends, snapshots), the
// tail, the end of its window, the limit, and the filter of slices.
//
// The first row, at position 0, tells of the page: its snapshot, the highest position given out, and whether this is a standby.
// Then come, by position: of each band the events of transactions that its snapshot does not know; of each transaction that the snapshot saw
// running and that has ended since, its events in the band; and the events above the tail. Each of the three is written so that one index
// only can answer it, with generic plans too: the first two by (txid, position + 0), the third by the primary key. The filter stands
// in a CASE because the planner, knowing nothing of it, would take it to select next to nothing, and sort rather than walk an index.
//
// Bands lie below the tail, so late events come before all others and only they are sorted: sorting whole pages took more time than
// reading them. PostgreSQL runs the parts of a UNION ALL one after another where it may not run them in parallel, which their limits
// forbid; that the rows do come in order is checked. There may be more of them than the limit, but not twice as many.
const readStatement = `
SELECT 0::bigint AS position, 0::text::xid8 AS txid, '' AS stream_id, ({{head}}) AS version,
       {{state}} AS id, pg_current_snapshot()::text AS type, '' AS data, '' AS metadata, 'epoch'::timestamptz AS recorded_at
UNION ALL (
  SELECT u.position, u.txid, u.stream_id, u.version, u.id::text, u.type, u.data::text, u.metadata::text, u.recorded_at
  FROM (
    (SELECT late.*
       FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS band (above, through, snapshot)
      CROSS JOIN LATERAL (
        SELECT {{events}} FROM {{table}} e
         WHERE e.{{txid}} >= pg_snapshot_xmax(band.snapshot::pg_snapshot) AND e.{{txid}} < pg_snapshot_xmax(pg_current_snapshot())
           AND e.{{position}} + 0 > band.above AND e.{{position}} + 0 <= band.through AND {{wanted}}
         ORDER BY e.{{position}} + 0 LIMIT $6) AS late)
    UNION ALL
    (SELECT late.*
       FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS band (above, through, snapshot)
      CROSS JOIN LATERAL pg_snapshot_xip(band.snapshot::pg_snapshot) AS ended (txid)
      CROSS JOIN LATERAL (
        SELECT {{events}} FROM {{table}} e
         WHERE e.{{txid}} = ended.txid AND e.{{position}} + 0 > band.above AND e.{{position}} + 0 <= band.through AND {{wanted}}
         ORDER BY e.{{position}} + 0 LIMIT $6) AS late
      WHERE pg_visible_in_snapshot(ended.txid, pg_current_snapshot()))
  ) AS u
  ORDER BY u.position LIMIT $6)
UNION ALL (
  SELECT u.position, u.txid, u.stream_id, u.version, u.id::text, u.type, u.data::text, u.metadata::text, u.recorded_at
  FROM (
    SELECT {{events}} FROM {{table}} e
     WHERE e.{{position}} > $4::bigint AND e.{{position}} <= $5::bigint AND {{wanted}}
     ORDER BY e.{{position}} LIMIT $6
  ) AS u)`

// Read returns the next events that any of the coverages lacks; see [eventsource.Source]. At most limit events, at least 1.
// ErrStandby and ErrStoreChanged say that this server cannot be read with these coverages.
func (s *Source) Read(ctx context.Context, from []eventsource.Coverage, segments []segment.Segment, limit int) (eventsource.Page, error) {
	if len(from) == 0 || limit < 1 {
		return eventsource.Page{}, fmt.Errorf("reading events: %d coverages and limit %d: both have to be at least 1", len(from), limit)
	}
	if s.gaps != nil {
		page, err := s.readGapped(ctx, from, limit)
		if err != nil {
			return eventsource.Page{}, fmt.Errorf("reading events: %w", err)
		}
		return page, nil
	}
	own := make([]*coverage, len(from))
	for i, c := range from {
		var ok bool
		if own[i], ok = c.(*coverage); !ok {
			return eventsource.Page{}, fmt.Errorf("reading events: a coverage of type %T is of another source", c)
		}
		if err := s.own(own[i].table); err != nil {
			return eventsource.Page{}, fmt.Errorf("reading events: %w", err)
		}
	}
	page, err := s.read(ctx, own, filterFor(segments), limit)
	if err != nil {
		return eventsource.Page{}, fmt.Errorf("reading events: %w", err)
	}
	return page, nil
}

func (s *Source) read(ctx context.Context, from []*coverage, filter sliceFilter, limit int) (eventsource.Page, error) {
	bands, tail := lacking(from)
	windowEnd := tail + s.window
	above, through, snapshots := make([]int64, len(bands)), make([]int64, len(bands)), make([]string, len(bands))
	for i, b := range bands {
		above[i], through[i], snapshots[i] = b.above, b.through, b.snapshot.String()
	}
	args := []any{above, through, snapshots, tail, windowEnd, limit}
	if s.events.sliced {
		args = append(args, filter.mask, filter.bits)
	}
	rows, err := s.db.Query(ctx, s.readSQL, args...)
	if err != nil {
		return eventsource.Page{}, err
	}
	defer rows.Close()
	p := builders.Get().(*pageBuilder)
	defer p.release()
	full, err := s.fill(ctx, p, rows, limit)
	if err != nil {
		return eventsource.Page{}, err
	}
	for _, c := range from {
		if err := c.contained(p.snapshot); err != nil {
			return eventsource.Page{}, err
		}
	}
	r := reached(from, p.snapshot, full, p.last(), windowEnd, p.head)
	return eventsource.Page{Events: p.finish(), More: r.more, After: r.after}, nil
}

// fill takes a page's rows, and reports whether there may be more.
func (s *Source) fill(ctx context.Context, p *pageBuilder, rows pgx.Rows, limit int) (full bool, err error) {
	excess := excess{limit: s.pageBytes}
	for rows.Next() {
		if full = full || len(p.rows) == limit || p.size() >= s.pageBytes; full {
			excess.add(ctx, rows)
			continue
		}
		if err := p.take(rows); err != nil {
			return full, err
		}
		if err := p.add(); err != nil {
			return full, err
		}
	}
	if err := rows.Err(); err != nil && !excess.ended(err) {
		return full, err
	}
	if !p.started {
		return full, errors.New("the server returned no row that tells of the page")
	}
	return full || len(p.rows) == limit, nil
}

// pageBuilder collects rows. It is used again for other pages, so that a page costs three pieces of memory, as large as they have
// to be, instead of some for each event.
type pageBuilder struct {
	// the row at hand
	position   int64
	txid       uint64
	version    int64
	recordedAt time.Time
	stream, id pgtype.DriverBytes
	kind       pgtype.DriverBytes
	data       pgtype.DriverBytes
	metadata   pgtype.DriverBytes

	looked, binary bool // at the columns' formats, from the first row on

	// from the first row
	started  bool
	snapshot Snapshot
	head     int64
	server   string // where gaps are read

	rows []entry
	text []byte
	json []byte
}

// entry is what is kept of a row until the page is complete. The ends of its columns are in the page's text and bytes.
type entry struct {
	position, version int64
	txid              uint64
	recordedAt        time.Time

	stream, id, kind, data, metadata int
}

var builders = sync.Pool{New: func() any { return new(pageBuilder) }}

// keptBytes is how large a builder may be that is kept for the next page.
const keptBytes = 4 << 20

// release makes the builder another page's.
func (p *pageBuilder) release() {
	if cap(p.text)+cap(p.json) <= keptBytes {
		builders.Put(&pageBuilder{rows: p.rows[:0], text: p.text[:0], json: p.json[:0]})
	}
}

// size is that of the events' texts so far.
func (p *pageBuilder) size() int64 { return int64(len(p.text) + len(p.json)) }

// last is the position of the last event, 0 without any.
func (p *pageBuilder) last() int64 {
	if len(p.rows) == 0 {
		return 0
	}
	return p.rows[len(p.rows)-1].position
}

func (p *pageBuilder) add() error {
	if !p.started {
		return p.start()
	}
	if p.position <= p.last() {
		return fmt.Errorf("the server returned position %d after %d", p.position, p.last())
	}
	if !p.snapshot.Visible(p.txid) {
		return &stampError{position: p.position, txid: p.txid}
	}
	r := entry{position: p.position, version: p.version, txid: p.txid, recordedAt: p.recordedAt}
	p.text = append(p.text, p.stream...)
	r.stream = len(p.text)
	p.text = append(p.text, p.id...)
	r.id = len(p.text)
	p.text = append(p.text, p.kind...)
	r.kind = len(p.text)
	p.json = append(p.json, p.data...)
	r.data = len(p.json)
	p.json = append(p.json, p.metadata...)
	r.metadata = len(p.json)
	p.rows = append(p.rows, r)
	return nil
}

// start takes the row that tells of the page.
func (p *pageBuilder) start() (err error) {
	p.started = true
	if p.position != 0 {
		return errors.New("the server did not return first the row that tells of the page")
	}
	switch string(p.id) {
	case "":
	case standby:
		return ErrStandby
	default:
		return errBelowOne
	}
	p.head, p.server = p.version, string(p.stream)
	p.snapshot, err = ParseSnapshot(string(p.kind))
	return err
}

// finish hands out the events.
func (p *pageBuilder) finish() []eventsource.Event {
	if len(p.rows) == 0 {
		return nil
	}
	text, json := string(p.text), bytes.Clone(p.json)
	events := make([]eventsource.Event, len(p.rows))
	var last entry
	for i, r := range p.rows {
		stream := text[last.kind:r.stream]
		events[i] = eventsource.Event{
			Position: r.position, StreamID: stream, Version: r.version, ID: text[r.stream:r.id], Type: text[r.id:r.kind],
			Data: json[last.metadata:r.data:r.data], Metadata: json[r.data:r.metadata:r.metadata],
			RecordedAt: r.recordedAt, Hash: segment.PG1(stream), Txn: r.txid,
		}
		last = r
	}
	return events
}
