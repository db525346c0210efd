package access

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

func byURL(secret string) definition.Database {
	return definition.Database{URLSecretRef: &definition.SecretKey{Name: secret, Key: "uri"}}
}

func TestASourcesSecretIsReadAtEveryConnect(t *testing.T) {
	folder := t.TempDir()
	target := SourceFromFiles(definition.SourcePostgres{Database: byURL("events")}, folder)
	if err := os.Mkdir(filepath.Join(folder, "events"), 0o755); err != nil {
		t.Fatal(err)
	}
	const want = "Secret events has no key uri: add it, or name another key in spec.source.postgres"
	if _, err := target(context.Background()); err == nil || err.Error() != want {
		t.Fatalf("without the key: %v", err)
	}
	for _, host := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(folder, "events", "uri"), []byte("postgres://app@"+host+"/events\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := target(context.Background()); err != nil || got.Host != host {
			t.Fatalf("%+v, %v", got, err)
		}
	}
}

func TestASecretMayComeLateAndChange(t *testing.T) {
	folder := t.TempDir()
	target, err := FromFiles(definition.Store{Postgres: &definition.Postgres{Database: byURL("db")}}, folder)
	if err != nil {
		t.Fatal(err)
	}
	var missing *connection.SecretNotFoundError
	if _, err := target(context.Background()); !errors.As(err, &missing) || missing.KeyOnly {
		t.Fatalf("without the Secret: %v", err)
	}
	if err := os.Mkdir(filepath.Join(folder, "db"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := target(context.Background()); !errors.As(err, &missing) || !missing.KeyOnly {
		t.Fatalf("without the key: %v", err)
	}
	for _, password := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(folder, "db", "uri"), []byte("postgres://app:"+password+"@db:5433/orders\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := target(context.Background())
		if err != nil || got.Host != "db" || got.Port != 5433 || got.Password != password || !got.PreferTLS {
			t.Fatalf("%+v, %v", got, err)
		}
	}
}

func TestAURLThatIsNoneIsRefusedAtOnce(t *testing.T) {
	if _, err := FromURL("postgres://db/orders?sslkey=/etc/passwd"); err == nil {
		t.Fatal("a URL that names a file is accepted")
	}
	if _, err := SourceFromURL("mysql://db"); err == nil || err.Error() != "the source's URL must begin with postgres://" {
		t.Fatalf("a source's URL that is none: %v", err)
	}
}
