package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ownTimeZone is the time zone of a connection that asks for none: that of the role, the database
// or the server, whichever says it first. Sluice's own connections ask for UTC, and from those the
// server does not tell what would be otherwise. So another one is opened for a moment.
func ownTimeZone(ctx context.Context, db DB) (zone string, err error) {
	var config *pgx.ConnConfig
	switch db := db.(type) {
	case *pgxpool.Pool:
		pool := db.Config()
		config = pool.ConnConfig
		if pool.BeforeConnect != nil {
			if err := pool.BeforeConnect(ctx, config); err != nil {
				return "", err
			}
		}
	case *pgxpool.Conn:
		config = db.Conn().Config()
	case *pgx.Conn:
		config = db.Config()
	default:
		err := db.QueryRow(ctx, "SELECT current_setting('TimeZone')").Scan(&zone)
		return zone, err
	}
	for name := range config.RuntimeParams {
		if strings.EqualFold(name, "timezone") {
			delete(config.RuntimeParams, name)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, "SELECT current_setting('TimeZone')").Scan(&zone)
	return zone, err
}
