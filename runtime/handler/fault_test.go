package handler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func TestClassify(t *testing.T) {
	const (
		event          = tokenstore.EventFault
		definition     = tokenstore.DefinitionFault
		contention     = tokenstore.ContentionFault
		infrastructure = tokenstore.InfrastructureFault
	)
	state := func(code string) error { return &pgconn.PgError{Code: code, Severity: "ERROR"} }
	fatal := func(code string) error { return &pgconn.PgError{Code: code, Severity: "FATAL"} }
	statement := func(code string) error { return &CallError{Positions: []int64{1}, Err: state(code)} }
	user := func(err error) error { return &UserError{Err: err} }
	commit := func(code string) error { return &tokenstore.CommitError{Err: state(code)} }
	for name, test := range map[string]struct {
		err    error
		want   tokenstore.FaultKind
		reason string
	}{
		"a number out of range":                       {statement("22003"), event, "HandlerFailed"},
		"a unique constraint":                         {statement("23505"), event, "HandlerFailed"},
		"a check of a view":                           {statement("44000"), event, "HandlerFailed"},
		"RAISE in the user's function":                {statement("P0001"), event, "HandlerFailed"},
		"an upsert that meets a row twice":            {statement("21000"), event, "HandlerFailed"},
		"a key too long for an index":                 {statement("54000"), event, "HandlerFailed"},
		"an error code of the application's own":      {statement("AC001"), event, "HandlerFailed"},
		"a CASE without a branch":                     {statement("20000"), event, "HandlerFailed"},
		"a function without RETURN":                   {statement("2F005"), event, "HandlerFailed"},
		"a commit in a function":                      {statement("2D000"), event, "HandlerFailed"},
		"an object that is not ready":                 {statement("55000"), event, "HandlerFailed"},
		"a transaction that was aborted before":       {user(state("25P02")), event, "HandlerFailed"},
		"an error inside of the server":               {statement("XX000"), event, "HandlerFailed"},
		"a missing table":                             {statement("42P01"), definition, "TableMissing"},
		"a feature that is not there":                 {statement("0A000"), definition, "StatementInvalid"},
		"a missing schema":                            {statement("3F000"), definition, "StatementInvalid"},
		"a prepared statement that is not there":      {statement("26000"), definition, "StatementInvalid"},
		"a deadlock":                                  {statement("40P01"), contention, "TransactionRolledBack"},
		"a lock not had in time":                      {statement("55P03"), contention, "LockNotAvailable"},
		"a deadlock of Sluice's own statement":        {state("40P01"), contention, "TransactionRolledBack"},
		"a lock not had by Sluice's own statement":    {state("55P03"), contention, "LockNotAvailable"},
		"a full disk":                                 {statement("53100"), infrastructure, "ServerError"},
		"a failed disk":                               {statement("58030"), infrastructure, "ServerError"},
		"a server that is read-only":                  {statement("25006"), infrastructure, "ReadOnly"},
		"a lost connection to another server":         {statement("08006"), infrastructure, "ServerError"},
		"a server that shuts down":                    {statement("57P01"), infrastructure, "ServerError"},
		"a backend that was ended":                    {fatal("57P01"), infrastructure, "ConnectionEnded"},
		"a wrong password":                            {fatal("28P01"), infrastructure, "ConnectionEnded"},
		"a wrong password for another server":         {&UserError{Err: fatal("28P01"), Elsewhere: true}, infrastructure, "ServerError"},
		"a connection that is gone":                   {errors.New("unexpected EOF"), infrastructure, "ConnectionFailed"},
		"a lost connection in the user's code":        {fmt.Errorf("%w: EOF", errConnection), infrastructure, "ConnectionLost"},
		"a statement that ran out of time":            {statement("57014"), event, "HandlerTimedOut"},
		"a transaction that rested for too long":      {fatal("25P03"), event, "HandlerTimedOut"},
		"a transaction that took too long":            {fatal("25P04"), event, "HandlerTimedOut"},
		"a connection that was closed at the limit":   {fmt.Errorf("%w: %w", errConnection, context.DeadlineExceeded), event, "HandlerTimedOut"},
		"a pipeline that ran out of time":             {fmt.Errorf("timeout: %w", context.DeadlineExceeded), event, "HandlerTimedOut"},
		"no connection in time":                       {fmt.Errorf("%w: %w", tokenstore.ErrNoConnection, context.DeadlineExceeded), infrastructure, "ConnectionFailed"},
		"a user's code that says so":                  {user(fmt.Errorf("%w: %w", tokenstore.ErrNoConnection, context.DeadlineExceeded)), event, "HandlerTimedOut"},
		"an error of the user's code":                 {user(errors.New("no such customer")), event, "HandlerFailed"},
		"a panic":                                     {&UserError{Err: errors.New("nil map"), Stack: "goroutine 1"}, event, "HandlerPanicked"},
		"a goroutine that was ended":                  {user(ErrExited), event, "HandlerExited"},
		"a timeout of the user's code":                {user(context.DeadlineExceeded), event, "HandlerTimedOut"},
		"a deadlock in the user's code":               {user(state("40P01")), contention, "TransactionRolledBack"},
		"a context that the user's code has canceled": {user(context.Canceled), event, "HandlerFailed"},
		"an append that met another one":              {user(fmt.Errorf("appending: %w", &eventspostgres.ConflictError{Stream: "s"})), contention, "AppendConflict"},
		"the same as the server says it":              {user(state("SL002")), contention, "AppendConflict"},
		"a statement's error that was swallowed":      {tokenstore.ErrSwallowed, event, "HandlerFailed"},
		"a deferred constraint":                       {commit("23503"), event, "HandlerFailed"},
		"a deferred trigger":                          {commit("P0001"), event, "HandlerFailed"},
		"a commit that meets another transaction":     {commit("40001"), contention, "TransactionRolledBack"},
		"Sluice's own statement":                      {state("23505"), infrastructure, "ServerError"},
		"Sluice's own statement, other classes":       {state("21000"), infrastructure, "ServerError"},
	} {
		if got, reason := Classify(fmt.Errorf("wrapped: %w", test.err), postgres.Errors{}); got != test.want || reason != test.reason {
			t.Errorf("%s: %s %s, want %s %s", name, got, reason, test.want, test.reason)
		}
	}
}

func TestBeforeCommitHoldsForUsersCode(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"an error of the user's code":                {&UserError{Err: errors.New("no")}, true},
		"a connection that was lost in it":           {fmt.Errorf("%w: EOF", errConnection), true},
		"a statement's error that was swallowed":     {tokenstore.ErrSwallowed, true},
		"what would have ended the transaction":      {fmt.Errorf("COMMIT: %w", tokenstore.ErrManagedTransaction), true},
		"a connection that was not to be had":        {fmt.Errorf("%w: %w", tokenstore.ErrNoConnection, context.DeadlineExceeded), true},
		"a connection that was lost at any time":     {errors.New("unexpected EOF"), false},
		"an answer to the commit":                    {&tokenstore.CommitError{Err: errors.New("no")}, false},
		"a fencing check that has found a new owner": {tokenstore.ErrFenced, false},
	} {
		if got := BeforeCommit(fmt.Errorf("wrapped: %w", test.err)); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestCulpritIsTheEventThatTheHandlerNames(t *testing.T) {
	events := []*Event{{Position: 5}, {Position: 7}, {Position: 9}}
	for name, test := range map[string]struct {
		err    error
		events []*Event
		index  int
		known  bool
	}{
		"an event of a Go handler":      {&EventError{Position: 7, Err: errors.New("no")}, events, 1, true},
		"a statement over one event":    {&CallError{Positions: []int64{9}, Err: errors.New("no")}, events, 2, true},
		"a statement over all":          {&CallError{Positions: []int64{5, 7, 9}, Err: errors.New("no")}, events, 0, false},
		"a batch of one":                {errors.New("no"), events[:1], 0, true},
		"a batch":                       {errors.New("no"), events, 0, false},
		"an event that is not among it": {&EventError{Position: 8, Err: errors.New("no")}, events, 0, false},
	} {
		index, known := Culprit(fmt.Errorf("wrapped: %w", test.err), test.events)
		if known != test.known || known && index != test.index {
			t.Errorf("%s: %d %t, want %d %t", name, index, known, test.index, test.known)
		}
	}
}

func TestMessageOfIsPrintableAndHidesValues(t *testing.T) {
	number := &pgconn.PgError{Severity: "ERROR", Code: "22P02", Message: `invalid input syntax for type integer: "4111"`, Detail: "card 4111"}
	for name, test := range map[string]struct {
		err     error
		details bool
		want    string
	}{
		"bytes that cannot be stored": {errors.New("a\x00b\xffc"), false, "a\uFFFDb\uFFFDc"},
		"a value that is hidden":      {number, false, `ERROR: invalid input syntax for type integer: "…" (SQLSTATE 22P02)`},
		"a value that is shown":       {number, true, `ERROR: invalid input syntax for type integer: "4111" (SQLSTATE 22P02): card 4111`},
		"a long text":                 {errors.New(strings.Repeat("x", 3000)), false, strings.Repeat("x", 2000) + "…"},
	} {
		if got := MessageOf(test.err, postgres.Errors{}, test.details); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
