package axon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DeadLetters are events of a processing group that Axon could not handle, and those of the same
// sequences that it has put behind them. By the token they are handled.
type DeadLetters struct {
	Table, Group string
	Count        int64
}

// deadLetters are those of the processor's groups. A group has the processor's name, unless the
// application says otherwise; one that is no other processor's may be of this one.
func (t Takeover) deadLetters(ctx context.Context, tx pgx.Tx, tokens columns) (left []DeadLetters, problems []error, err error) {
	tables, err := t.deadLetterTables(ctx, tx)
	if err != nil {
		return nil, nil, err
	}
	for _, table := range tables {
		letters, err := table.count(ctx, tx, tokens, t.Processor)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == pgerrcode.InsufficientPrivilege {
			if !t.LeaveDeadLetters {
				problems = append(problems, fmt.Errorf("the dead letters in %s cannot be counted: grant SELECT on it, or give --leave-dead-letters", table.name))
			}
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("counting the dead letters in %s: %w", table.name, err)
		}
		left = append(left, letters...)
	}
	if t.LeaveDeadLetters {
		return left, problems, nil
	}
	for _, l := range left {
		problems = append(problems, fmt.Errorf("%s has dead letters of the processing group %s (%d): neither they nor the events behind them would ever be handled."+
			" Have Axon process or evict them, by its SequencedDeadLetterProcessor, or give --leave-dead-letters", l.Table, l.Group, l.Count))
	}
	return left, problems, nil
}

// letterTable is one of dead letters, with the column of their processing group.
type letterTable struct{ name, quoted, group string }

// deadLetterTables are Axon's, as JPA or JDBC spells them.
func (t Takeover) deadLetterTables(ctx context.Context, tx pgx.Tx) ([]letterTable, error) {
	found, err := tx.Query(ctx, `SELECT n.nspname, c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v') AND lower(replace(c.relname, '_', '')) = 'deadletterentry' AND lower(replace(a.attname, '_', '')) = 'processinggroup' AND NOT a.attisdropped
		ORDER BY 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("looking for Axon's dead letters: %w", err)
	}
	var tables []letterTable
	var schema, name, column string
	_, err = pgx.ForEachRow(found, []any{&schema, &name, &column}, func() error {
		tables = append(tables, letterTable{schema + "." + name, pgx.Identifier{schema, name}.Sanitize(), pgx.Identifier{column}.Sanitize()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for Axon's dead letters: %w", err)
	}
	return tables, nil
}

func (l letterTable) count(ctx context.Context, tx pgx.Tx, tokens columns, processor string) (letters []DeadLetters, err error) {
	// Within a savepoint, as the transaction goes on where the table may not be read.
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		count := strings.NewReplacer("{{letters}}", l.quoted, "{{group}}", l.group).Replace(`SELECT l.{{group}}, count(*) FROM {{letters}} l
			WHERE l.{{group}} = $1 OR NOT EXISTS (SELECT FROM {{table}} t WHERE t.{{processorname}} = l.{{group}}) GROUP BY 1 ORDER BY 1`)
		found, err := tx.Query(ctx, tokens.in(count), processor)
		if err != nil {
			return err
		}
		letters, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (DeadLetters, error) {
			letters := DeadLetters{Table: l.name}
			return letters, row.Scan(&letters.Group, &letters.Count)
		})
		return err
	})
	return letters, err
}
