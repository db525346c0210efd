package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/eventsource"
)

// A row that cannot be read has the server, or the decoder, refuse all of the page. Then it is read
// carefully: first which events there are, in one statement as ever, and after that what is in
// them, in ever smaller parts, down to the columns of one row. That event is given, with what is
// wrong with it, and so are all others.

// mostCarefully is how many events a page has at most that is read carefully.
const mostCarefully = 500

// field is one of an event's, and where it is.
type field struct {
	name       string // in the declaration
	column     string
	expression string // of the row e
	content    bool   // not read where contents are not
	json       bool   // it has to be JSON, and the server has not seen to it
}

// The fields of an event that a mapping reads, in the order of a page's columns.
const (
	fieldStream = iota
	fieldType
	fieldRecordedAt
	fieldVersion
	fieldID
	fieldData
	fieldMetadata
)

// notRead reports whether an error may come of what is in some row: of data that are none of their
// type or encoding, too large, lost or damaged.
func notRead(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case len(pg.Code) != 5:
		case pg.Code == pgerrcode.UndefinedObject: // a large object that is not there
			return true
		case pg.Code[:2] == "22", pg.Code[:2] == "54", pg.Code[:2] == "XX":
			return true
		}
		return false
	}
	_, scanned := errors.AsType[pgx.ScanArgError](err)
	return scanned
}

// readCarefully reads a page of which some row cannot be read.
func (s *Source) readCarefully(ctx context.Context, k *known, p *pageBuilder, limit int, args []any) (full bool, err error) {
	limit = min(limit, mostCarefully)
	args = slices.Clone(args)
	args[s.events.limitAt()] = limit
	*p = pageBuilder{linked: p.linked, shape: p.shape} // without fields, as there are only positions
	err = s.query(ctx, refuseHiding, k.skeleton, args, func(rows pgx.Rows) (err error) {
		full, err = s.fill(ctx, p, rows, limit)
		return err
	})
	if err != nil || len(p.events) == 0 {
		return full, err
	}
	return full, s.fillCarefully(ctx, k, p, p.events)
}

// errVanished says that a row was deleted between two statements: the page is to be read again.
var errVanished = errors.New("a row was deleted while it was read")

// fillCarefully fills events in, of which only the positions are known.
func (s *Source) fillCarefully(ctx context.Context, k *known, p *pageBuilder, events []*eventsource.Event) error {
	positions := make([]int64, len(events))
	for i, e := range events {
		positions[i] = e.Position
	}
	rows := &pageBuilder{started: true, snapshot: p.snapshot, fields: k.fields}
	sql := k.rows
	if s.bare() {
		sql = k.bareRows
	}
	err := s.query(ctx, refuseHiding, sql, []any{positions}, func(found pgx.Rows) error {
		for found.Next() {
			if err := rows.take(found); err != nil {
				return err
			}
			if err := rows.add(); err != nil {
				return err
			}
		}
		return lost(found.Err())
	})
	switch {
	case err == nil && len(rows.events) != len(events):
		return errVanished
	case err == nil:
		for i, e := range events {
			*e = *rows.events[i]
		}
		return nil
	case !notRead(err):
		return err
	case len(events) == 1:
		return s.examine(ctx, k, p, events[0])
	}
	middle := len(events) / 2
	if err := s.fillCarefully(ctx, k, p, events[:middle]); err != nil {
		return err
	}
	return s.fillCarefully(ctx, k, p, events[middle:])
}

// examine reads one event column by column.
func (s *Source) examine(ctx context.Context, k *known, p *pageBuilder, e *eventsource.Event) error {
	row := &pageBuilder{started: true, snapshot: p.snapshot, fields: k.fields, position: e.Position, txid: e.Mark, bare: s.bare()}
	for i, f := range k.fields {
		if f.content && row.bare {
			continue
		}
		err := s.query(ctx, refuseHiding, s.events.in("SELECT "+f.expression+" FROM {{table}} e WHERE e.{{position}} = $1::bigint"), []any{e.Position}, func(found pgx.Rows) error {
			if !found.Next() {
				if err := found.Err(); err != nil {
					return lost(err)
				}
				return errVanished
			}
			if err := row.takeField(i, found); err != nil {
				return err
			}
			found.Close()
			return lost(found.Err())
		})
		if err != nil && !notRead(err) {
			return err
		}
		if err != nil {
			row.refuse(i, plain(err))
		}
	}
	if err := row.add(); err != nil {
		return err
	}
	*e = *row.events[0]
	return nil
}

// takeField takes one column of the row at hand.
func (p *pageBuilder) takeField(i int, rows pgx.Rows) error {
	switch i {
	case fieldRecordedAt:
		return p.scanTime(rows)
	case fieldVersion:
		return rows.Scan(&p.version)
	}
	var text *string // not the driver's bytes: they are gone with the next statement
	if err := rows.Scan(&text); err != nil || text == nil {
		return err
	}
	switch bytes := []byte(*text); i {
	case fieldStream:
		p.stream = bytes
	case fieldType:
		p.kind = bytes
	case fieldID:
		p.id = bytes
	case fieldData:
		p.data = bytes
	case fieldMetadata:
		p.metadata = bytes
	}
	return nil
}

// plain is an error without what surrounds the server's message.
func plain(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Errorf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	if scan, ok := errors.AsType[pgx.ScanArgError](err); ok {
		return scan.Err
	}
	return err
}

var (
	errNull    = errors.New("it is null, which it must not be")
	errNotJSON = errors.New("it is not JSON: where the column has other text, declare content: Text, or Base64 for bytes of any kind")
)

// refuse takes note that a field of the row at hand cannot be read.
func (p *pageBuilder) refuse(i int, err error) {
	name := p.fields[i].name
	if p.unreadable == nil {
		p.unreadable = &eventsource.UnreadableError{Position: p.position, Field: name, Column: p.fields[i].column, Err: err}
	}
	p.unreadable.Missing = append(p.unreadable.Missing, name)
}

// judge looks at what the server does not: whether what must be there is, and whether what is
// declared to be JSON is that.
func (p *pageBuilder) judge() {
	missing := func(i int, what []byte) {
		if what == nil && !p.unreadable.Lacks(p.fields[i].name) {
			p.refuse(i, errNull)
		}
	}
	missing(fieldStream, p.stream)
	missing(fieldType, p.kind)
	if p.timeless && !p.unreadable.Lacks(p.fields[fieldRecordedAt].name) {
		p.refuse(fieldRecordedAt, errNull)
	}
	if p.bare {
		return
	}
	if p.fields[fieldData].json && p.data != nil && !json.Valid(p.data) {
		p.refuse(fieldData, errNotJSON)
		p.data = nil
	}
	if p.fields[fieldMetadata].json && p.metadata != nil && !json.Valid(p.metadata) {
		p.refuse(fieldMetadata, errNotJSON)
		p.metadata = nil
	}
}
