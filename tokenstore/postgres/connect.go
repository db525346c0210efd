// Package postgres keeps the directory and the token store in PostgreSQL (15 or newer).
package postgres

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/pgconfig"
	"github.com/sluice-project/sluice/tokenstore"
)

// DefaultSchema holds Sluice's tables unless the processor says otherwise.
const DefaultSchema = "sluice"

// Target is the way to a database.
type Target struct {
	Host           string
	Port           uint16
	Database       string
	User, Password string
	TLS            *tls.Config // nil connects in the clear, or as PreferTLS says
	PreferTLS      bool        // encrypt where the server can, without verifying it, as libpq's sslmode=prefer does
	ConnectTimeout time.Duration
	// Attributes is libpq's target_session_attrs: any, read-write or primary. Of a name with
	// several addresses, the first is taken whose server has them. Empty is any.
	Attributes string
	// ChannelBinding is libpq's channel_binding: disable, prefer or require. Empty is prefer.
	ChannelBinding string
}

// Options of a connection or a pool.
type Options struct {
	// Target is asked at every connect: credentials rotate, and may come late.
	Target func(ctx context.Context) (Target, error)
	// Application is shown in pg_stat_activity. Workers name their incarnation here, so that what a dead one left can be ended.
	Application string
	// Dial connects, where not everything may be dialled; nil uses a net.Dialer.
	Dial pgconn.DialFunc
	// MaxConns of a pool, 4 by default.
	MaxConns int32
	// Settings of its sessions, beside those that all have.
	Settings map[string]string
	// Keepalives makes server and client notice within about three seconds that the other's host is gone.
	Keepalives bool
}

// pingAfter is for how long a connection has to have rested to be asked whether it lives before it is used: longer than from one
// heartbeat to the next, which would cost two statements otherwise.
const pingAfter = tokenstore.Heartbeat * 3 / 2

// Open makes a pool. It does not connect yet.
func Open(o Options) (*pgxpool.Pool, error) {
	config, err := pgconfig.New()
	if err != nil {
		return nil, err
	}
	if config.MaxConns = o.MaxConns; o.MaxConns == 0 {
		config.MaxConns = 4
	}
	config.MaxConnIdleTime = 30 * time.Second
	config.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
	config.ConnConfig.RuntimeParams = o.session()
	config.BeforeConnect = o.aim
	config.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
		if g, there := guardBelow(conn.PgConn().Conn()); there {
			g.wake()
		}
		return !conn.IsClosed(), nil
	}
	return pgxpool.NewWithConfig(context.Background(), config)
}

// Connect makes one connection of its own, for what needs a session: LISTEN and the session lock.
func Connect(ctx context.Context, o Options) (*pgx.Conn, error) {
	return connect(ctx, o, func(*pgx.ConnConfig) {})
}

func connect(ctx context.Context, o Options, prepare func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	base, err := pgconfig.New()
	if err != nil {
		return nil, err
	}
	config := base.ConnConfig
	config.RuntimeParams = o.session()
	if err := o.aim(ctx, config); err != nil {
		return nil, err
	}
	prepare(config)
	return pgx.ConnectConfig(ctx, config)
}

// aim points a connection at the target as it is now.
func (o Options) aim(ctx context.Context, config *pgx.ConnConfig) error {
	target, err := o.Target(ctx)
	if err != nil {
		return err
	}
	config.Host, config.Port, config.Database = target.Host, target.Port, target.Database
	config.User, config.Password, config.TLSConfig = target.User, target.Password, target.TLS
	config.Fallbacks = nil
	config.ValidateConnect = attributes[target.Attributes]
	config.ChannelBinding = cmp.Or(target.ChannelBinding, "prefer")
	if target.PreferTLS && target.TLS == nil {
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true}
		config.Fallbacks = []*pgconn.FallbackConfig{{Host: target.Host, Port: target.Port}}
	}
	switch {
	case o.Dial != nil:
		config.DialFunc = o.Dial
	case o.Keepalives:
		config.DialFunc = keepalive.DialContext
	}
	watch(config)
	config.ConnectTimeout = target.ConnectTimeout
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	return nil
}

// attributes check a server that was connected to.
var attributes = map[string]pgconn.ValidateConnectFunc{
	"read-write": has("read-write", pgconn.ValidateConnectTargetSessionAttrsReadWrite),
	"primary":    has("primary", pgconn.ValidateConnectTargetSessionAttrsPrimary),
}

func has(name string, check pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := check(ctx, conn); err != nil {
			return fmt.Errorf("the server does not have target_session_attrs=%s (%w): name a host that leads to the primary", name, err)
		}
		return nil
	}
}

// session returns the settings of every connection: databases and roles have defaults of their own,
// and the proof that nothing is applied twice needs READ COMMITTED. search_path is none of them: a
// name without a schema means in a handler what it means in psql.
func (o Options) session() map[string]string {
	settings := map[string]string{
		"application_name":                    o.Application,
		"default_transaction_isolation":       "read committed",
		"default_transaction_read_only":       "off",
		"default_transaction_deferrable":      "off",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "3s",
		"client_connection_check_interval":    "500ms",
		"timezone":                            "UTC",
		"datestyle":                           "ISO, MDY",
		"intervalstyle":                       "postgres",
		"client_encoding":                     "UTF8",
		"client_min_messages":                 "warning",
		"jit":                                 "off", // reads of pages are short, but their estimates are not
	}
	maps.Copy(settings, o.Settings)
	if o.Keepalives {
		maps.Copy(settings, map[string]string{
			"tcp_keepalives_idle": "1", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3",
			"tcp_user_timeout": strconv.FormatInt(unheard.Milliseconds(), 10),
		})
	}
	return settings
}

// connectApart makes a connection of its own with a pool's options, for what must not touch those
// that others use.
func connectApart(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	config := pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	return pgx.ConnectConfig(ctx, config.ConnConfig)
}

// withConn gives work a connection, and ends a transaction that it left open because something failed in it.
func withConn(ctx context.Context, pool *pgxpool.Pool, work func(*pgxpool.Conn) error) error {
	return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		err := work(conn)
		if err != nil && !conn.Conn().IsClosed() && conn.Conn().PgConn().TxStatus() != 'I' {
			_, rollback := conn.Exec(ctx, `ROLLBACK`)
			err = errors.Join(err, rollback)
		}
		return err
	})
}

// quoted returns a schema's name as it stands in statements.
func quoted(schema string) string { return pgx.Identifier{schema}.Sanitize() }
