package stores

import (
	"context"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	storespostgres "github.com/sluice-project/sluice/controllers/stores/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// TestASecretThatIsChangedIsTriedWhileTheSessionGoesOn: it would be noticed at the next connect
// only, such as that of a new pod.
func TestASecretThatIsChangedIsTriedWhileTheSessionGoesOn(t *testing.T) {
	ctx := context.Background()
	right, other, empty := postgrestest.New(t), postgrestest.New(t), postgrestest.New(t)
	migrate(t, other)
	var text atomic.Pointer[string]
	text.Store(&right)
	s, news := runStores(t, right, func(o *Options) {
		o.SecretsEvery = 20 * time.Millisecond
		o.Backend = storespostgres.Backend{AllowLoopback: true, Secrets: func(string) connection.Secrets {
			return func(context.Context, string, string) ([]byte, error) {
				now := *text.Load()
				if now == "" {
					return nil, &connection.SecretNotFoundError{Name: "db", Key: "uri"}
				}
				return []byte(now), nil
			}
		}}
	})
	s.Want(orders, wantedIn())
	until(t, s, news, "the first look", func(o Observation) bool { return o.Seen && o.Problem == nil })
	conn, err := pgx.Connect(ctx, right)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	oldest := func() (pid int) { // of the session's connections
		err := conn.QueryRow(ctx, "SELECT pid FROM pg_stat_activity WHERE application_name = 'sluice-operator' AND datname = current_database() ORDER BY backend_start LIMIT 1").Scan(&pid)
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	session := oldest()
	changed := func(change func(*url.URL)) string {
		u, err := url.Parse(right)
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return u.String()
	}
	for _, step := range []struct{ name, url, reason, text string }{
		{"no Secret", "", "SecretNotFound", "Secret db does not exist"},
		{"no URL", "mysql://somewhere", "InvalidURL", "Secret db, key uri"},
		{"another role", changed(func(u *url.URL) { u.User = url.User("nobody-of-that-name") }), "AuthenticationFailed", "does not exist"},
		{"no such database", changed(func(u *url.URL) { u.Path += "_not_there" }), "DatabaseNotFound", "does not exist"},
		{"a database without tables", empty, "MigrationRequired", "sluice migrate"},
		{"another store", other, "StoreChanged", "expectedStoreID"},
		{"the same again", right, "", ""},
		{"no Secret again", "", "SecretNotFound", "Secret db does not exist"},
		{"another setting", changed(func(u *url.URL) { u.RawQuery = "connect_timeout=7&" + u.RawQuery }), "", ""},
	} {
		text.Store(&step.url)
		o := until(t, s, news, step.name, func(o Observation) bool {
			return step.reason == "" && o.Secrets == nil || o.Secrets != nil && o.Secrets.Reason == step.reason && strings.Contains(o.Secrets.Message, step.text)
		})
		if o.Problem != nil {
			t.Errorf("%s: the session has ended: %+v", step.name, o.Problem)
		}
	}
	if oldest() != session {
		t.Error("the session did not go on")
	}
}

func migrate(t *testing.T, url string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
}
