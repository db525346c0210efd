package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// window is the number of positions that one read of Sluice's own table looks at above the tail, so
// that a page of few wanted events among many is an end too. A user's table has no filter, so that
// a read of it looks at no more rows than it gives, however far apart their positions are.
const window = 200_000

// readStatement gives a page and what it was read from. The parameters are the bands (lower ends,
// upper ends, snapshots), the tail, the limit and, where the table has slices, the end of the
// tail's window and the filter of slices.
//
// The first row, at position 0, tells of the page: the highest position given out stands for its
// stream, with what is to be known of a user's table; and for its type its snapshot, or why this
// server cannot be read. Then come, by position: of each band the events of transactions that its
// snapshot does not know; of each transaction that the snapshot saw running and that has ended
// since, its events in the band; and the events above the tail. Each of the three is written so
// that one index only can answer it, with generic plans too: the first two by (txid, position + 0),
// the third by the primary key. The filter stands in a CASE because the planner, knowing nothing of
// it, would take it to select next to nothing, and sort rather than walk an index.
//
// Bands lie below the tail, so late events come before all others and only they are sorted: sorting whole pages took more time than
// reading them. PostgreSQL runs the parts of a UNION ALL one after another where it may not run them in parallel, which their limits
// forbid; that the rows do come in order is checked. There may be more of them than the limit, but not twice as many.
const readStatement = `
SELECT 0::bigint AS position, 0::text::xid8 AS txid, {{about}} AS stream_id,
       coalesce(nullif({{state}}, ''), pg_current_snapshot()::text) AS type, 'epoch'::timestamptz AS recorded_at{{none}}
UNION ALL (
  SELECT u.* FROM (
    (SELECT late.*
       FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS band (above, through, snapshot)
      CROSS JOIN LATERAL (
        SELECT {{events}} FROM {{table}} e
         WHERE e.{{txid}} >= pg_snapshot_xmax(band.snapshot::pg_snapshot) AND e.{{txid}} < pg_snapshot_xmax(pg_current_snapshot())
           AND e.{{position}} + 0 > band.above AND e.{{position}} + 0 <= band.through AND {{wanted}}
         ORDER BY e.{{position}} + 0 LIMIT $5) AS late)
    UNION ALL
    (SELECT late.*
       FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS band (above, through, snapshot)
      CROSS JOIN LATERAL pg_snapshot_xip(band.snapshot::pg_snapshot) AS ended (txid)
      CROSS JOIN LATERAL (
        SELECT {{events}} FROM {{table}} e
         WHERE e.{{txid}} = ended.txid AND e.{{position}} + 0 > band.above AND e.{{position}} + 0 <= band.through AND {{wanted}}
         ORDER BY e.{{position}} + 0 LIMIT $5) AS late
      WHERE pg_visible_in_snapshot(ended.txid, pg_current_snapshot()))
  ) AS u
  ORDER BY u.position LIMIT $5)
UNION ALL (
  SELECT {{events}} FROM {{table}} e
   WHERE e.{{position}} > $4::bigint AND {{within}}
   ORDER BY e.{{position}} LIMIT $5)`

// Read returns the next events that any of the coverages lacks; see [eventsource.Source]. At most limit events, at least 1.
// ErrStandby and ErrStoreChanged say that this server cannot be read with these coverages.
func (s *Source) Read(ctx context.Context, from []eventsource.Coverage, segments []segment.Segment, limit int) (eventsource.Page, error) {
	if len(from) == 0 || limit < 1 {
		return eventsource.Page{}, fmt.Errorf("reading events: %d coverages and limit %d: both have to be at least 1", len(from), limit)
	}
	page, _, err := s.readFrom(ctx, from, segments, limit)
	if err != nil {
		return eventsource.Page{}, fmt.Errorf("reading events: %w", err)
	}
	return page, nil
}

// readFrom reads a page, and returns where it comes from if the source is separate.
func (s *Source) readFrom(ctx context.Context, from []eventsource.Coverage, segments []segment.Segment, limit int) (page eventsource.Page, origin origin, err error) {
	err = s.steadily(ctx, func(k *known) (err error) {
		page, origin, err = s.readKnown(ctx, k, from, filterFor(segments), limit)
		return err
	})
	return page, origin, err
}

func (s *Source) readKnown(ctx context.Context, k *known, from []eventsource.Coverage, filter sliceFilter, limit int) (eventsource.Page, origin, error) {
	p := &pageBuilder{}
	if s.gaps != nil {
		own, err := ownOf[*gapped](s, from, func(c *gapped) string { return c.table })
		if err != nil {
			return eventsource.Page{}, origin{}, err
		}
		page, err := s.readGapped(ctx, k, p, own, limit)
		return page, p.origin, err
	}
	own, err := ownOf[*coverage](s, from, func(c *coverage) string { return c.table })
	if err != nil {
		return eventsource.Page{}, origin{}, err
	}
	page, err := s.read(ctx, k, p, own, filter, limit)
	return page, p.origin, err
}

// ownOf returns coverages as those of this source's table.
func ownOf[C eventsource.Coverage](s *Source, from []eventsource.Coverage, table func(C) string) ([]C, error) {
	own := make([]C, len(from))
	for i, c := range from {
		var ok bool
		if own[i], ok = c.(C); !ok {
			return nil, fmt.Errorf("a coverage of type %T is of another source", c)
		}
		if err := s.own(table(own[i])); err != nil {
			return nil, err
		}
	}
	return own, nil
}

func (s *Source) read(ctx context.Context, k *known, p *pageBuilder, from []*coverage, filter sliceFilter, limit int) (eventsource.Page, error) {
	bands, tail := lacking(from)
	windowEnd := int64(maxPosition)
	above, through, snapshots := make([]int64, len(bands)), make([]int64, len(bands)), make([]string, len(bands))
	for i, b := range bands {
		above[i], through[i], snapshots[i] = b.above, b.through, b.snapshot.String()
	}
	args := []any{above, through, snapshots, tail, limit}
	if s.events.sliced {
		windowEnd = tail + s.window
		args = append(args, windowEnd, filter.mask, filter.bits)
	}
	full, err := s.readPage(ctx, k, p, limit, args...)
	if err != nil {
		return eventsource.Page{}, err
	}
	for _, c := range from {
		if err := c.contained(p.snapshot); err != nil {
			return eventsource.Page{}, err
		}
	}
	r := reached(from, p.snapshot, full, p.last(), windowEnd, p.head)
	if s.events.table != nil && len(k.facts.parents) > 0 {
		s.watch.vouched(r.through, r.snapshot)
	}
	return eventsource.Page{Events: p.events, More: r.more, Spacing: eventsource.Spacing(p.events), After: r.after}, nil
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
		return full, lost(err)
	}
	if !p.started {
		return full, errors.New("the server returned no row that tells of the page")
	}
	return full || len(p.events) == limit, nil
}
