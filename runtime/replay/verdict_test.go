package replay

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func state(code string) error { return fmt.Errorf("doing it: %w", &pgconn.PgError{Code: code}) }

// statement is an error of a statement of the reset's.
func statement(code string) error { return &handler.UserError{Err: state(code)} }

var attempts = regexp.MustCompile(`attempt 7\b|failed (once|twice|[345] times)`)

func TestVerdictOfATry(t *testing.T) {
	late := &timeLimitError{time.Second, context.DeadlineExceeded}
	for name, test := range map[string]struct {
		err      error
		called   bool
		failures int
		want     course
		counts   bool
	}{
		"it has committed":                   {nil, true, 0, done, false},
		"another worker has it":              {&tokenstore.NotDueError{Reason: tokenstore.ReplayMoved}, false, 0, leave, false},
		"the worker stops":                   {errStopped, true, 4, leave, false},
		"it was cancelled":                   {&tokenstore.NotDueError{Reason: tokenstore.ReplayCancelledMeanwhile}, true, 0, cancelled, false},
		"a pod of another definition came":   {&tokenstore.NotDueError{Reason: tokenstore.ReplayWaitsForRollout}, true, 0, putOff, false},
		"its place was deleted":              {&eventsource.StartPositionError{}, false, 0, putOff, false},
		"a lock is not to be had":            {state("55P03"), true, 4, lockBusy, false},
		"a deadlock":                         {&handler.UserError{Err: state("40P01")}, true, 4, lockBusy, false},
		"the connection cannot be made":      {errors.New("refused"), false, 4, retry, false},
		"the store lacks a table":            {state("42P01"), false, 4, retry, false},
		"no room on the disk":                {statement("53100"), true, 4, retry, false},
		"a statement of Sluice's fails":      {state("22012"), true, 4, retry, false},
		"the connection was ended":           {&handler.UserError{Err: &pgconn.PgError{Code: "57P01", Severity: "FATAL"}}, true, 0, retry, true},
		"a deferred constraint":              {&tokenstore.CommitError{Err: state("23505")}, true, 0, retry, true},
		"the server is a standby":            {state("25006"), true, 4, retry, false},
		"the server starts":                  {state("57P03"), true, 4, retry, false},
		"the connection is lost in the call": {errors.New("unexpected EOF"), true, 0, retry, true},
		"a statement fails":                  {statement("2BP01"), true, 0, retry, true},
		"it fails for the fourth time":       {statement("22012"), true, 3, retry, true},
		"it fails for the last time":         {statement("22012"), true, 4, fail, true},
		"its time was over":                  {late, true, 0, retry, true},
		"its time was over again":            {late, true, 1, fail, true},
		"it ignores that its time is over":   {&timeLimitError{time.Second, errAbandoned}, true, 0, fail, true},
		"no worker has come back from it":    {errWorkersEnded, false, 5, fail, false},
		"it does not return":                 {errExited, true, 1, retry, true},
	} {
		got := judge(outcome{groups: []string{"view"}, err: test.err, called: test.called, failures: test.failures, tries: 7}, postgres.Errors{})
		if got.course != test.want || got.counts != test.counts {
			t.Errorf("%s: course %d, counts %t, want %d, %t", name, got.course, got.counts, test.want, test.counts)
		}
		if (got.course == retry || got.course == fail) && !strings.Contains(got.message, "group view") {
			t.Errorf("%s: %q does not name the group", name, got.message)
		}
		if (got.course == retry || got.course == fail || got.course == lockBusy) && !attempts.MatchString(got.message) {
			t.Errorf("%s: %q does not say how often it was tried", name, got.message)
		}
	}
}
