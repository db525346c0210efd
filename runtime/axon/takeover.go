package axon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Takeover says which processor's tokens become which group's.
type Takeover struct {
	Table     string // of Axon's tokens, as schema.table
	Processor string // its name in Axon
	Node      string // that is known to have ended without releasing its claims; empty for none
	Group     tokenstore.Group
	// LeaveDeadLetters lets the processor's dead letters stay behind, which nobody handles then.
	LeaveDeadLetters bool
	// Given returns the progress of all events up to a position but for some.
	Given func(ctx context.Context, tx pgx.Tx, through int64, except []int64) (progress.Progress, error)
	// Adopt makes the group.
	Adopt func(ctx context.Context, tx pgx.Tx, g tokenstore.Group, tokens []tokenstore.Token) error
}

// Owner is whom Axon finds its tokens to be claimed by afterwards, until long after.
const Owner = "sluice"

// until is the time of that claim, as Axon writes it.
const until = "9999-01-01T00:00:00Z"

// row is one of Axon's tokens.
type row struct {
	id      int32
	mask    *int32 // of Axon 5; 4 derives it
	text    []byte
	owner   *string
	token   Token
	segment segment.Segment
}

// Result is what was taken over, and what was left behind.
type Result struct {
	Tokens []tokenstore.Token
	Left   []DeadLetters
}

// MissingError is all that keeps tokens from being taken over. Nothing has been changed.
type MissingError struct{ Problems []error }

func (e *MissingError) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0].Error()
	}
	text := fmt.Sprintf("%d things keep the tokens from being taken over, and nothing was changed:", len(e.Problems))
	for _, problem := range e.Problems {
		text += "\n- " + problem.Error()
	}
	return text
}

func (e *MissingError) Unwrap() []error { return e.Problems }

// Run takes the tokens over, all or none. The error is a *MissingError where something has to be
// done before; it begins with the problems that are known already.
func (t Takeover) Run(ctx context.Context, conn *pgx.Conn, known ...error) (Result, error) {
	var result Result
	// One snapshot, in which the tokens are what they are when the events are looked at.
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		problems := slices.Clone(known)
		add := func(found ...error) { problems = append(problems, found...) }
		columns, err := t.columns(ctx, tx)
		if err == nil {
			var found []error
			result.Left, found, err = t.deadLetters(ctx, tx, columns)
			add(found...)
		}
		if err == nil {
			var rows []row
			var found []error
			rows, found, err = t.segments(ctx, tx, columns)
			add(found...)
			if err == nil && len(problems) == 0 {
				result.Tokens, found = t.tokens(ctx, tx, rows)
				add(found...)
			}
		}
		if err != nil {
			add(err)
		}
		if len(problems) > 0 {
			return &MissingError{problems}
		}
		t.Group.Segments = len(result.Tokens)
		if err := t.Adopt(ctx, tx, t.Group, result.Tokens); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, columns.in("UPDATE {{table}} SET {{owner}} = $2, {{timestamp}} = $3 WHERE {{processorname}} = $1"), t.Processor, Owner, until)
		if err != nil {
			return fmt.Errorf("keeping Axon from claiming its tokens: %w", err)
		}
		return nil
	})
	return result, err
}

// segments are the processor's, with their tokens, and all that is wrong with them.
func (t Takeover) segments(ctx context.Context, tx pgx.Tx, c columns) ([]row, []error, error) {
	rows, err := t.rows(ctx, tx, c)
	if err != nil {
		return nil, nil, err
	}
	problems := t.claims(rows)
	for i := range rows {
		if rows[i].token, err = ParseToken(rows[i].text); err != nil {
			problems = append(problems, fmt.Errorf("segment %d of %s: %w", rows[i].id, t.Processor, err))
		}
	}
	rows, err = withSegments(rows)
	if err != nil {
		problems = append(problems, fmt.Errorf("the tokens of %s: %w", t.Processor, err))
	}
	return rows, problems, nil
}

// tokens are what becomes of the segments.
func (t Takeover) tokens(ctx context.Context, tx pgx.Tx, rows []row) (tokens []tokenstore.Token, problems []error) {
	for _, r := range rows {
		parts, err := t.parts(ctx, tx, r.segment, r.token)
		if err != nil {
			problems = append(problems, fmt.Errorf("segment %d of %s: %w", r.id, t.Processor, err))
			if _, refused := errors.AsType[*pgconn.PgError](err); refused {
				break // the transaction is over
			}
		}
		slices.SortFunc(parts, func(a, b progress.Part) int { return int(a.Segment.ID) - int(b.Segment.ID) })
		tokens = append(tokens, tokenstore.Token{Key: tokenstore.Key{Group: t.Group.Name, Segment: r.segment.ID}, Mask: r.segment.Mask, Parts: parts})
	}
	return tokens, problems
}

// columns are those of Axon's table, which are spelled differently from one store to the next.
type columns struct {
	table       string
	byName      map[string]string // quoted, by the name in lower case without underscores
	largeObject bool
}

func (c columns) in(statement string) string {
	pairs := []string{"{{table}}", c.table}
	for name, quoted := range c.byName {
		pairs = append(pairs, "{{"+name+"}}", quoted)
	}
	return strings.NewReplacer(pairs...).Replace(statement)
}

func (t Takeover) columns(ctx context.Context, tx pgx.Tx) (columns, error) {
	schema, name, _ := strings.Cut(t.Table, ".")
	c := columns{table: pgx.Identifier{schema, name}.Sanitize(), byName: map[string]string{}}
	found, err := tx.Query(ctx, `SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid
		WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped`, schema, name)
	if err != nil {
		return c, fmt.Errorf("looking at %s: %w", t.Table, err)
	}
	var column, kind string
	_, err = pgx.ForEachRow(found, []any{&column, &kind}, func() error {
		plain := strings.ToLower(strings.ReplaceAll(column, "_", ""))
		c.byName[plain] = pgx.Identifier{column}.Sanitize()
		c.largeObject = c.largeObject || plain == "token" && kind == "oid"
		return nil
	})
	if err != nil {
		return c, fmt.Errorf("looking at %s: %w", t.Table, err)
	}
	for _, needed := range []string{"processorname", "segment", "token", "timestamp", "owner"} {
		if c.byName[needed] == "" {
			return c, fmt.Errorf("%s is not there, or is no table of Axon's tokens: it has no column %s (underscores and case do not count)", t.Table, needed)
		}
	}
	return c, nil
}

func (t Takeover) rows(ctx context.Context, tx pgx.Tx, c columns) ([]row, error) {
	value, mask := "{{token}}", "NULL::integer"
	if c.largeObject {
		value = "lo_get({{token}})"
	}
	if c.byName["mask"] != "" {
		mask = "{{mask}}"
	}
	found, err := tx.Query(ctx, c.in("SELECT {{segment}}, "+mask+", "+value+", {{owner}} FROM {{table}} WHERE {{processorname}} = $1 ORDER BY {{segment}} FOR UPDATE NOWAIT"), t.Processor)
	if err != nil {
		return nil, fmt.Errorf("reading the tokens of %s: %w", t.Processor, err)
	}
	rows, err := pgx.CollectRows(found, func(r pgx.CollectableRow) (row row, err error) {
		return row, r.Scan(&row.id, &row.mask, &row.text, &row.owner)
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == pgerrcode.LockNotAvailable || pg.Code == pgerrcode.SerializationFailure) {
		return nil, fmt.Errorf("the tokens of %s are in use by Axon: stop the processor in every instance of the application, then try again", t.Processor)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the tokens of %s: %w", t.Processor, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s has no tokens of a processor %s: correct the name, which is the one in processor_name", t.Table, t.Processor)
	}
	return rows, nil
}

// claims are the nodes that may still be processing.
func (t Takeover) claims(rows []row) (problems []error) {
	claimed := map[string][]string{} // ids of segments, by node
	for _, r := range rows {
		if r.owner != nil && (*r.owner != t.Node || t.Node == "") {
			claimed[*r.owner] = append(claimed[*r.owner], fmt.Sprint(r.id))
		}
	}
	for _, node := range slices.Sorted(maps.Keys(claimed)) {
		if node == Owner {
			problems = append(problems, fmt.Errorf("the tokens of %s have been taken over already", t.Processor))
			continue
		}
		what := "segment "
		verb := "is"
		if len(claimed[node]) > 1 {
			what, verb = "segments ", "are"
		}
		problems = append(problems, fmt.Errorf("%s%s of %s %s claimed by the node %s: stop the processor in every instance of the application; where that node has ended without releasing it, give --ended-node %[5]s",
			what, strings.Join(claimed[node], ", "), t.Processor, verb, node))
	}
	return problems
}

// withSegments finds the masks, and makes sure that the segments are all of the hash space, once.
func withSegments(rows []row) ([]row, error) {
	ids := map[uint32]bool{}
	for _, r := range rows {
		ids[uint32(r.id)] = true
	}
	share := 0
	for i, r := range rows {
		s := segment.Segment{ID: uint32(r.id), Mask: maskOf(uint32(r.id), ids)}
		if r.mask != nil {
			s.Mask = uint32(*r.mask)
		}
		if err := s.Valid(); err != nil {
			return nil, err
		}
		for _, other := range rows[:i] {
			if s.Includes(other.segment) || other.segment.Includes(s) {
				return nil, fmt.Errorf("segments %s and %s overlap", other.segment, s)
			}
		}
		rows[i].segment = s
		share += s.Share()
	}
	if share != segment.MaxSlices {
		return nil, errors.New("the segments do not cover all events: a token is missing")
	}
	return rows, nil
}

// maskOf is Axon 4's Segment.computeSegment: the mask follows from the ids that there are.
func maskOf(id uint32, ids map[uint32]bool) uint32 {
	bit := uint32(1) << bits.Len32(id)
	for bit < segment.MaxSlices && ids[bit|id] {
		bit <<= 1
	}
	return bit - 1
}

// parts are one, or those of the halves of a merged segment.
func (t Takeover) parts(ctx context.Context, tx pgx.Tx, s segment.Segment, token Token) ([]progress.Part, error) {
	if token.Lower != nil {
		low, high := s.Split()
		if err := high.Valid(); err != nil {
			return nil, err
		}
		lower, err := t.parts(ctx, tx, low, *token.Lower)
		if err != nil {
			return nil, err
		}
		upper, err := t.parts(ctx, tx, high, *token.Upper)
		return append(lower, upper...), err
	}
	reached, err := t.Given(ctx, tx, token.Index, token.Gaps)
	if errors.Is(err, eventspostgres.ErrInexact) {
		return nil, fmt.Errorf("its token cannot be taken over exactly: %w; let Axon run the processor until it has handled that one too, stop it, and try again", err)
	}
	if err != nil {
		return nil, err
	}
	return []progress.Part{{Segment: s, Progress: reached}}, nil
}
