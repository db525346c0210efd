package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// dependentsStatement lists what PostgreSQL neither changes nor makes anew when a column's type is altered, even to the same, and therefore refuses to do: views,
// triggers that name the column, policies, generated columns, publications and functions. Indexes, constraints, defaults and statistics it makes anew.
const dependentsStatement = `
SELECT DISTINCT CASE WHEN d.classid = 'pg_rewrite'::regclass THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0)
                     WHEN d.classid = 'pg_attrdef'::regclass THEN 'generated ' || pg_describe_object('pg_class'::regclass, f.adrelid, f.adnum)
                     ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END
  FROM pg_attribute a
  JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
  LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
 WHERE (a.attrelid = $1::text::regclass OR a.attrelid IN (SELECT relid FROM pg_partition_tree($1::text::regclass))) AND quote_ident(a.attname) = quote_ident($2)
   AND (d.classid IN ('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_publication_rel'::regclass, 'pg_proc'::regclass)
        OR d.classid = 'pg_attrdef'::regclass AND (f.adrelid, f.adnum) IS DISTINCT FROM (a.attrelid, a.attnum))
 ORDER BY 1`

// refuseDependents returns an error that names what keeps the column of transactions from being rewritten.
func (m mapping) refuseDependents(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, dependentsStatement, m.relation, strings.ReplaceAll(strings.Trim(m.txid, `"`), `""`, `"`))
	if err != nil {
		return fmt.Errorf("looking for what depends on the column %s: %w", m.txid, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for what depends on the column %s: %w", m.txid, err)
	}
	if len(found) > 0 {
		return fmt.Errorf("the column %s has to be rewritten, which PostgreSQL refuses because of what depends on it: %s. Nothing was changed. Drop that, run the command again, and then make it anew",
			m.txid, strings.Join(found, ", "))
	}
	return nil
}
