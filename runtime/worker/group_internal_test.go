package worker

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// TestALostConnectionCountsNothingAgainstASetup has connections end again and again before a group's
// setup begins, as another group's setup may do: the waits are those for a server, and a setup that
// fails afterwards waits no longer than at first.
func TestALostConnectionCountsNothingAgainstASetup(t *testing.T) {
	ended := &pgconn.PgError{Severity: "FATAL", Code: "57P01", Message: "terminating connection"}
	for name, test := range map[string]struct {
		err  error
		want []time.Duration
	}{
		"the connection is lost before": {fmt.Errorf("looking for the setup: %w", ended), []time.Duration{100e6, 200e6, 400e6, 800e6, 1600e6, 3200e6, 5e9, 5e9}},
		"it is lost in the setup":       {&tokenstore.SetupError{Err: ended}, []time.Duration{500e6, 1e9, 2e9, 4e9, 8e9, 15e9, 15e9}},
		"the program lacks the handler": {&handler.UnregisteredError{}, []time.Duration{500e6, 1e9, 2e9, 4e9, 8e9, 15e9, 15e9}},
		"a statement has a parameter":   {fmt.Errorf("handler.sql.%w", &handler.StatementError{Problem: "has a parameter"}), []time.Duration{500e6, 1e9, 2e9, 4e9, 8e9, 15e9, 15e9}},
		"the setup takes too long":      {&tokenstore.SetupTimeoutError{Err: &tokenstore.SetupError{Err: ended}}, []time.Duration{500e6, 1e9, 2e9, 4e9, 8e9, 15e9, 15e9}},
		"the setup fails":               {&tokenstore.SetupError{Err: errors.New("no")}, []time.Duration{500e6, 1e9, 2e9, 4e9, 8e9, 15e9, 15e9}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(definition.DefinedGroup{Name: "view"})
			for range 8 {
				g.waitAfter(unfit(ended, postgres.Errors{}, false))
			}
			g.lost.reset()
			for i, want := range test.want {
				if got := g.waitAfter(unfit(test.err, postgres.Errors{}, false)); got != want {
					t.Errorf("after failure %d it waits for %s, want %s", i+1, got, want)
				}
			}
		})
	}
}

// TestTheLogHasDataOfASetupOnlyWithDetails: PostgreSQL quotes a value that it cannot read.
func TestTheLogHasDataOfASetupOnlyWithDetails(t *testing.T) {
	err := &tokenstore.SetupError{Err: &pgconn.PgError{Code: "22P02", Message: `invalid input syntax for type integer: "Ada Lovelace"`}}
	for _, details := range []bool{false, true} {
		var out bytes.Buffer
		l := &life{errors: postgres.Errors{}, log: slog.New(slog.NewTextHandler(&out, nil))}
		l.judge(newGroup(definition.DefinedGroup{Name: "view"}), err, details)
		if told := out.String(); !strings.Contains(told, "invalid input syntax") || strings.Contains(told, "Lovelace") != details {
			t.Errorf("with details %t it logs %s", details, told)
		}
	}
}
