package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
)

// partition is a table of a tree of partitions, the root among them.
type partition struct {
	schema, table, parent string // quoted, the tables with their schemas; the root has no parent
	oid                   uint32
	leaf                  bool
}

const partitionsStatement = `
SELECT quote_ident(n.nspname), format('%I.%I', n.nspname, c.relname), CASE WHEN p.oid IS NULL THEN '' ELSE format('%I.%I', pn.nspname, p.relname) END, c.oid, t.isleaf
  FROM pg_partition_tree($1::text::regclass) t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN (pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace) ON p.oid = t.parentrelid AND t.level > 0
 ORDER BY t.level, 1`

// indexPartitions makes the index of a partitioned table, which cannot be created beside writers as a whole: those of the partitions are, one by
// one, and become parts of one that is created for the table alone. It is valid when all are. What is there is replaced.
func (p Prepared) indexPartitions(ctx context.Context, conn *pgx.Conn, t definition.Table, tell func(command string)) error {
	rows, err := conn.Query(ctx, partitionsStatement, identifier(t.Name))
	if err != nil {
		return fmt.Errorf("looking for the partitions of %s: %w", t.Name, err)
	}
	tree, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (x partition, err error) {
		return x, row.Scan(&x.schema, &x.table, &x.parent, &x.oid, &x.leaf)
	})
	if err != nil {
		return fmt.Errorf("looking for the partitions of %s: %w", t.Name, err)
	}
	index := map[string]string{} // by table
	commands := []string{"DROP INDEX IF EXISTS " + pgx.Identifier{p.schema, p.index}.Sanitize()}
	var attach []string
	for _, x := range tree {
		name := p.index
		if x.parent != "" {
			name = fmt.Sprintf("%.40s_%d", p.index, x.oid)
			commands = append(commands, fmt.Sprintf("DROP INDEX IF EXISTS %s.%s", x.schema, column(name)))
		}
		index[x.table] = x.schema + "." + column(name)
		create := "CREATE INDEX %s ON ONLY %s (%s, (%s + 0))"
		if x.leaf {
			create = "CREATE INDEX CONCURRENTLY %s ON %s (%s, (%s + 0))"
		}
		commands = append(commands, fmt.Sprintf(create, column(name), x.table, column(t.Columns.Transaction), column(t.Columns.Position)))
		if x.parent != "" {
			attach = append(attach, fmt.Sprintf("ALTER INDEX %s ATTACH PARTITION %s", index[x.parent], index[x.table]))
		}
	}
	for i := len(attach) - 1; i >= 0; i-- { // from the leaves up
		commands = append(commands, attach[i])
	}
	for _, command := range commands {
		tell(command)
		if _, err := conn.Exec(ctx, command); err != nil {
			return fmt.Errorf("creating the index on the partitions of %s: %w", t.Name, err)
		}
	}
	return nil
}
