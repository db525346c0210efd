package access

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CheckEncoding refuses a database that is not UTF8. Hashes of streams and JSON would differ from
// those of the programs.
func CheckEncoding(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) error {
	var encoding string
	if err := db.QueryRow(ctx, "SELECT current_setting('server_encoding')").Scan(&encoding); err != nil {
		return fmt.Errorf("asking for the database's encoding: %w", err)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database has the encoding %s, and Sluice needs UTF8: make one with CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0,"+
			" and move the data there with pg_dump and pg_restore", encoding)
	}
	return nil
}
