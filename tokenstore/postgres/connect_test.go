package postgres_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func TestConnectChecksTheAttributesOfTheServer(t *testing.T) {
	ctx := context.Background()
	server := postgrestest.Start(t)
	connects := func(url, attributes string) error {
		o := options(t, url)
		target := o.Target
		o.Target = func(ctx context.Context) (postgres.Target, error) {
			to, err := target(ctx)
			to.Attributes = attributes
			return to, err
		}
		conn, err := postgres.Connect(ctx, o)
		if err == nil {
			err = conn.Close(ctx)
		}
		return err
	}
	for _, attributes := range []string{"", "any", "read-write", "primary"} {
		if err := connects(server.URL("postgres"), attributes); err != nil {
			t.Errorf("the primary, with %q: %v", attributes, err)
		}
	}
	standby := standbyOf(t, server)
	for _, attributes := range []string{"", "any"} {
		if err := connects(standby.URL("postgres"), attributes); err != nil {
			t.Errorf("a standby, with %q: %v", attributes, err)
		}
	}
	for _, attributes := range []string{"read-write", "primary"} {
		err := connects(standby.URL("postgres"), attributes)
		if err == nil || !strings.Contains(err.Error(), "target_session_attrs="+attributes) {
			t.Errorf("a standby, with %q: %v", attributes, err)
		}
	}
}

// standbyOf ends a server and starts one on its data that goes on in recovery.
func standbyOf(t *testing.T, server *localpostgres.Server) *localpostgres.Server {
	t.Helper()
	bin, err := postgrestest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(server.DataDir(), "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	standby, err := localpostgres.Start(context.Background(), localpostgres.Options{BinDir: bin, DataDir: server.DataDir(),
		Settings: map[string]string{"fsync": "off", "max_connections": "300", "max_prepared_transactions": "50"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Error(err)
		}
	})
	return standby
}
