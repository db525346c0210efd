package stores

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	storespostgres "github.com/sluice-project/sluice/controllers/stores/postgres"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

func TestProblemsByError(t *testing.T) {
	server := func(code string) error { return &pgconn.PgError{Code: code, Message: "server says"} }
	dial := &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{Port: 43215}, Err: syscall.ECONNREFUSED}
	cases := map[string]struct {
		err          error
		reason, text string
	}{
		"Secret":            {&connection.SecretNotFoundError{Name: "db", Key: "uri"}, "SecretNotFound", "Secret db does not exist"},
		"URL":               {&connection.InvalidError{Name: "db", Key: "uri", Cause: errors.New("bad")}, "InvalidURL", "Secret db, key uri: bad"},
		"password":          {server("28P01"), "AuthenticationFailed", "db:5432/app as me: server says (SQLSTATE 28P01)"},
		"role":              {server("28000"), "AuthenticationFailed", "server says"},
		"database":          {server("3D000"), "DatabaseNotFound", "server says"},
		"privilege":         {server("42501"), "PermissionDenied", "server says"},
		"server is down":    {server("57P01"), "ConnectionFailed", "server says"},
		"no server":         {dial, "ConnectionFailed", "db:5432/app as me: connection refused"},
		"no such host":      {&net.DNSError{Name: "db", IsNotFound: true}, "ConnectionFailed", "host db is not known"},
		"no answer":         {context.DeadlineExceeded, "ConnectionFailed", "no answer in time"},
		"tables":            {&postgres.MigrationRequiredError{Schema: "sluice", Want: 2}, "MigrationRequired", "sluice migrate"},
		"old operator":      {&tokenstore.ProtocolError{Have: 1, Want: 2}, "OperatorCannotConnect", "newer image"},
		"loopback":          {&storespostgres.RefusedAddressError{Address: "127.0.0.1:5432"}, "OperatorCannotConnect", "127.0.0.1:5432"},
		"group":             {&tokenstore.GroupConflictError{Group: "view", Owner: tokenstore.Owner{Processor: "c/n/p"}}, "GroupConflict", "c/n/p"},
		"a table not ready": {&eventsource.InvalidError{Problem: "not prepared"}, "SourceInvalid", "spec.source: not prepared"},
		"no such place":     {fmt.Errorf("finding where group view starts: %w", &eventsource.StartPositionError{Problem: "too early"}), "PlaceInvalid", "group view starts: too early"},
		"sequencing":        {&tokenstore.SequencingChangedError{Group: "view", Recorded: "Stream/pg1", Wanted: "Stream/java"}, "SequencingChanged", "Stream/java"},
		"other store":       {&storeChangedError{belongs: "a", found: "b"}, "StoreChanged", "expectedStoreID names the latter; pods that are still connected to the former go on"},
		"copied store":      {&storeChangedError{belongs: "a", found: "a", elsewhere: true}, "StoreChanged", "pods that connect to the copy handle nothing"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := Options{Backend: storespostgres.Backend{}}.problemOf(fmt.Errorf("doing something: %w", tc.err), "db:5432/app as me")
			if got.Reason != tc.reason || !strings.Contains(got.Message, tc.text) {
				t.Errorf("got %s: %s", got.Reason, got.Message)
			}
			if strings.Contains(got.Message, "43215") {
				t.Errorf("the message changes with every attempt: %s", got.Message)
			}
		})
	}
}

// TestAnOutageOfTheSourceIsNoneOfTheStore: the message has the reason that a store would have, and
// nothing is left of what is only true of stores.
func TestAnOutageOfTheSourceIsNoneOfTheStore(t *testing.T) {
	const place = "events:5432/shop as reader"
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, tc := range map[string]struct {
		err          error
		text         string
		operatorOnly bool
	}{
		"Secret":     {&connection.SecretNotFoundError{Name: "events", Key: "uri"}, "the source's database: SecretNotFound: Secret events does not exist: create it with the key uri", false},
		"password":   {&pgconn.PgError{Code: "28P01", Message: "no"}, "the source's database: AuthenticationFailed: events:5432/shop as reader: no (SQLSTATE 28P01)", false},
		"no server":  {dial, "the source's database: ConnectionFailed: events:5432/shop as reader: connection refused", false},
		"no answer":  {context.DeadlineExceeded, "the source's database: ConnectionFailed: events:5432/shop as reader: no answer in time", false},
		"loopback":   {&storespostgres.RefusedAddressError{Address: "127.0.0.1:5432"}, "the source's database: OperatorCannotConnect: the operator does not connect to 127.0.0.1:5432", true},
		"no tables":  {&postgres.MigrationRequiredError{Schema: "sluice", Want: 2}, "the source's database: MigrationRequired: ", false},
		"the source": {errors.New("it has changed"), "the source's database: ConnectionFailed: events:5432/shop as reader: it has changed", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := Options{Backend: storespostgres.Backend{}}.sourceProblemOf(&backend.SourceError{Place: place, Err: fmt.Errorf("reading: %w", tc.err)})
			if got.Reason != "SourceUnreachable" || !strings.HasPrefix(strings.Replace(got.Message, "reading: ", "", 1), tc.text) {
				t.Errorf("got %s: %s", got.Reason, got.Message)
			}
			if got.OperatorOnly != tc.operatorOnly || got.NoTables || !got.Passes {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestStoresThatAreAccepted(t *testing.T) {
	cases := map[string]struct {
		belongs, expected, found string
		elsewhere, want          bool
	}{
		"the first":               {found: "a", want: true},
		"the same":                {belongs: "a", found: "a", want: true},
		"another":                 {belongs: "a", found: "b"},
		"another, expected":       {belongs: "a", expected: "b", found: "b", want: true},
		"not the expected":        {belongs: "a", expected: "b", found: "a"},
		"a copy":                  {belongs: "a", found: "a", elsewhere: true},
		"a copy, for a new one":   {found: "a", elsewhere: true},
		"a copy that is expected": {belongs: "a", expected: "a", found: "a", elsewhere: true, want: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := Wanted{StoreID: tc.belongs, Spec: definition.Spec{Store: definition.Store{Postgres: &definition.Postgres{ExpectedStoreID: tc.expected}}}}
			if got := w.accepts(tc.found, tc.elsewhere); got != tc.want {
				t.Errorf("accepted: %v", got)
			}
		})
	}
}

func TestSlotsTakeTurns(t *testing.T) {
	s := newSlots(1)
	if !s.take(t.Context()) || s.wanted() {
		t.Fatal("the first slot is free")
	}
	taken := make(chan bool)
	go func() { taken <- s.take(t.Context()) }()
	for !s.wanted() {
	}
	s.give()
	if !<-taken {
		t.Error("a slot that was given back was not taken")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if s.take(ended) {
		t.Error("a second slot was given")
	}
}
