package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// TestTheOperatorDialsNoLoopbackForASource: whoever may write a Secret must not reach its pod.
func TestTheOperatorDialsNoLoopbackForASource(t *testing.T) {
	given := func(context.Context, string, string) ([]byte, error) {
		return []byte("postgres://app:secret@127.0.0.1:5432/app"), nil
	}
	all := sources{backend: Backend{Secrets: func(string) connection.Secrets { return given }}, namespace: "shop"}
	defer all.close()
	source, err := all.source(definition.Source{Type: definition.SourceStore, Postgres: &definition.SourcePostgres{
		Database: definition.Database{URLSecretRef: &definition.SecretKey{Name: "events", Key: "uri"}}, Schema: "sluice"}})
	if err != nil {
		t.Fatal(err)
	}
	_, start := source.Start(t.Context(), progress.StartPosition{Type: progress.Latest})
	_, _, waiting := source.Waiting(t.Context(), 0)
	for name, err := range map[string]error{"Check": source.Check(t.Context()), "Start": start, "Waiting": waiting} {
		var of *backend.SourceError
		var refused *RefusedAddressError
		if !errors.As(err, &of) || !errors.As(err, &refused) || of.Place != "127.0.0.1:5432/app as app" {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s shows the password: %v", name, err)
		}
	}
}
