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

func TestASecretMayComeLateAndChange(t *testing.T) {
	folder := t.TempDir()
	target, err := FromFiles(definition.Store{Postgres: &definition.Postgres{URLSecretRef: &definition.SecretKey{Name: "db", Key: "uri"}}}, folder)
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
}
