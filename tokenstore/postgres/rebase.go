package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sluice-project/sluice/progress"

	"github.com/jackc/pgx/v5"
)

// ErrAtHome is returned where a store belongs to the server that it is on, so that its tokens mean what they say.
var ErrAtHome = errors.New("the store belongs to this server: there is nothing to rebase")

// progressTables hold progress in the columns position and snapshot.
var progressTables = []string{"token", "token_part", "replay_boundary"}

// Rebase makes a store that was restored from a dump, or copied, one of the server that it is on now, in one transaction: each token and each
// boundary of a replay gets the progress that translate returns for it, in the order of what it is given. Claims are fenced off.
//
// It is refused with ErrAtHome, and while workers live: they must not read events meanwhile.
func Rebase(ctx context.Context, conn *pgx.Conn, schema string, translate func(context.Context, pgx.Tx, []progress.Progress) ([]progress.Progress, error)) error {
	in := func(sql string) string { return strings.ReplaceAll(sql, "{{schema}}", quoted(schema)) }
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// A large table takes as long as it takes; who waits for writers that do not end is told.
		if _, err := tx.Exec(ctx, in("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10s'; LOCK TABLE {{schema}}.worker, {{schema}}.token, {{schema}}.token_part, {{schema}}.replay_boundary IN SHARE ROW EXCLUSIVE MODE")); err != nil {
			return fmt.Errorf("locking the tokens: %w", err)
		}
		if err := mayRebase(ctx, tx, in); err != nil {
			return err
		}
		before, err := allProgress(ctx, tx, in)
		if err != nil {
			return err
		}
		after, err := translate(ctx, tx, before)
		if err != nil {
			return err
		}
		return settle(ctx, tx, in, before, after)
	})
}

// mayRebase looks whether the store is another server's, and nobody uses it.
func mayRebase(ctx context.Context, tx pgx.Tx, in func(string) string) error {
	var home bool
	var living []string
	err := tx.QueryRow(ctx, in(`SELECT m.system_identifier = c.system_identifier, ARRAY(SELECT w.pod FROM {{schema}}.worker w WHERE `+alive+` ORDER BY 1)
		FROM {{schema}}.meta m, pg_control_system() c`)).Scan(&home, &living)
	switch {
	case err != nil:
		return fmt.Errorf("looking whose store this is: %w", err)
	case home:
		return ErrAtHome
	case len(living) > 0:
		return fmt.Errorf("workers use the store (%s): scale their processors to zero, and try again when they have ended", strings.Join(living, ", "))
	}
	return nil
}

func allProgress(ctx context.Context, tx pgx.Tx, in func(string) string) ([]progress.Progress, error) {
	var each []string
	for _, table := range progressTables {
		each = append(each, "SELECT position, snapshot FROM {{schema}}."+table)
	}
	rows, err := tx.Query(ctx, in(strings.Join(each, " UNION ")+" ORDER BY 1, 2"))
	if err != nil {
		return nil, fmt.Errorf("reading the tokens: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p progress.Progress, err error) {
		return p, row.Scan(&p.Position, &p.State)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the tokens: %w", err)
	}
	return all, nil
}

// settle writes the new progress, and whose store it is.
func settle(ctx context.Context, tx pgx.Tx, in func(string) string, before, after []progress.Progress) error {
	var positions []int64
	var was, is []string
	for i, p := range before {
		if after[i].Position != p.Position {
			return fmt.Errorf("a token at position %d would move to %d", p.Position, after[i].Position)
		}
		positions, was, is = append(positions, p.Position), append(was, p.State), append(is, after[i].State)
	}
	for _, table := range progressTables {
		_, err := tx.Exec(ctx, in(`UPDATE {{schema}}.`+table+` t SET snapshot = n.after
			FROM unnest($1::bigint[], $2::text[], $3::text[]) AS n (position, before, after) WHERE (t.position, t.snapshot) = (n.position, n.before)`), positions, was, is)
		if err != nil {
			return fmt.Errorf("writing progress to %s: %w", table, err)
		}
	}
	for _, command := range []string{
		"UPDATE {{schema}}.token SET epoch = epoch + 1, version = version + 1, owner = 0",
		"UPDATE {{schema}}.failure SET event_mark = 0", // events may have got other transactions
		"UPDATE {{schema}}.worker SET state = 'Ended' WHERE state <> 'Ended'",
		"UPDATE {{schema}}.meta SET system_identifier = (SELECT system_identifier FROM pg_control_system())",
	} {
		if _, err := tx.Exec(ctx, in(command)); err != nil {
			return fmt.Errorf("making the store one of this server: %w", err)
		}
	}
	return nil
}
