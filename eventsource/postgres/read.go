package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// window is the number of positions that one read looks at above the tail, so that a page of few wanted events among many is
// an end too.
const window = 200_000

// readStatement gives a page and what it was read from. The parameters are the bands (lower ends, upper ends, snapshots), the
// tail, the end of its window, the limit, and the filter of slices.
//
// The first row, at position 0, tells of the page: the highest position given out stands for its stream, and for its type its snapshot, or why this server
// cannot be read.
// Then come, by position: of each band the events of transactions that its snapshot does not know; of each transaction that the snapshot saw
// running and that has ended since, its events in the band; and the events above the tail. Each of the three is written so that one index
// only can answer it, with generic plans too: the first two by (txid, position + 0), the third by the primary key. The filter stands
// in a CASE because the planner, knowing nothing of it, would take it to select next to nothing, and sort rather than walk an index.
//
// Bands lie below the tail, so late events come before all others and only they are sorted: sorting whole pages took more time than
// reading them. PostgreSQL runs the parts of a UNION ALL one after another where it may not run them in parallel, which their limits
// forbid; that the rows do come in order is checked. There may be more of them than the limit, but not twice as many.
const readStatement = `
SELECT 0::bigint AS position, 0::text::xid8 AS txid, ({{head}})::text AS stream_id,
       coalesce(nullif({{state}}, ''), pg_current_snapshot()::text) AS type, 'epoch'::timestamptz AS recorded_at{{none}}
UNION ALL (
  SELECT u.* FROM (
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
  SELECT {{events}} FROM {{table}} e
   WHERE e.{{position}} > $4::bigint AND e.{{position}} <= $5::bigint AND {{wanted}}
   ORDER BY e.{{position}} LIMIT $6)`

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
	p := &pageBuilder{}
	full, err := s.readPage(ctx, p, limit, args...)
	if err != nil {
		return eventsource.Page{}, err
	}
	for _, c := range from {
		if err := c.contained(p.snapshot); err != nil {
			return eventsource.Page{}, err
		}
	}
	r := reached(from, p.snapshot, full, p.last(), windowEnd, p.head)
	return eventsource.Page{Events: p.events, More: r.more, After: r.after}, nil
}

// fill takes a page's rows, and reports whether there may be more.
func (s *Source) fill(ctx context.Context, p *pageBuilder, rows pgx.Rows, limit int) (full bool, err error) {
	excess := excess{limit: s.pageBytes}
	for rows.Next() {
		if full = full || len(p.events) == limit || p.bytes >= s.pageBytes; full {
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
	return full || len(p.events) == limit, nil
}
