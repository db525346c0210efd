package handler

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/tokenstore"
)

// Reasons of faults that are the same for all handlers, in CamelCase for conditions.
const (
	ReasonTimedOut = "HandlerTimedOut"
	ReasonFailed   = "HandlerFailed"
	ReasonPanicked = "HandlerPanicked"
	ReasonExited   = "HandlerExited"
	// ReasonUnended is that of an event whose call ended the process, or its connection.
	ReasonUnended        = "CallDidNotEnd"
	ReasonConnectionLost = "ConnectionLost"
	ReasonServerError    = "ServerError"
	ReasonReadOnly       = "ReadOnly"
)

// Classify says what an error of Apply is evidence against, with a reason in CamelCase.
//
//   - Infrastructure: SQLSTATE classes 08, 28, 3D, 53, 57P and 58, code 25006, and connections that failed.
//   - Contention: class 40, 55P03, and append conflicts.
//   - The definition: classes 42, 0A, 3F and 26.
//   - The event: time limits (57014, 25P03, 25P04, the context's deadline), and everything else that a handler's statement or
//     the handler itself fails with. Sluice's own statements are never evidence against an event, but for what a COMMIT
//     raises: that comes from a deferred constraint of the user's.
func Classify(err error) (tokenstore.FaultKind, string) {
	var pg *pgconn.PgError
	var user *UserError
	inUserCode := errors.As(err, &user)
	switch {
	case NotCalled(err):
		return tokenstore.InfrastructureFault, "ConnectionFailed"
	case errors.Is(err, tokenstore.ErrManagedTransaction):
		return tokenstore.DefinitionFault, "TransactionEnded"
	case errors.Is(err, context.DeadlineExceeded):
		return tokenstore.EventFault, ReasonTimedOut
	case errors.As(err, &pg) && slices.Contains(timeLimits, pg.Code) && pg.Routine != copyFailed:
		return tokenstore.EventFault, ReasonTimedOut
	case pg != nil && (pg.Severity == "FATAL" || pg.Severity == "PANIC") && !Elsewhere(err):
		return tokenstore.InfrastructureFault, "ConnectionEnded"
	case pg != nil:
		return classifyState(pg.Code, ofHandler(err))
	case inUserCode && user.Stack != "":
		return tokenstore.EventFault, ReasonPanicked
	case inUserCode && errors.Is(err, ErrExited):
		return tokenstore.EventFault, ReasonExited
	case errors.Is(err, errConnection):
		return tokenstore.InfrastructureFault, ReasonConnectionLost
	case errors.Is(err, tokenstore.ErrSwallowed):
		return tokenstore.EventFault, ReasonFailed
	case conflicted(err):
		return tokenstore.ContentionFault, "AppendConflict"
	case inUserCode:
		return tokenstore.EventFault, ReasonFailed
	}
	return tokenstore.InfrastructureFault, "ConnectionFailed"
}

// Elsewhere reports whether an error is of user's code that has not lost its transaction's
// connection: a server or a connection of the code's own may have failed, but not those of the
// batch.
func Elsewhere(err error) bool {
	var user *UserError
	return errors.As(err, &user) && user.Elsewhere
}

// timeLimits are the SQLSTATEs of the server's time limits: of a statement, of a transaction at
// rest, and of a transaction.
var timeLimits = []string{"57014", "25P03", "25P04"}

// copyFailed is the function of the server that has the SQLSTATE of a time limit for a COPY that its
// client has ended.
const copyFailed = "CopyGetData"

// ofHandler reports whether an error of the server is of the handler's statements, or of a
// constraint that its rows break at the commit, and not of Sluice's own statements.
func ofHandler(err error) bool {
	var user *UserError
	var call *CallError
	var commit *tokenstore.CommitError
	return errors.As(err, &user) || errors.As(err, &call) || errors.As(err, &commit)
}

// conflicted reports whether an append met another one, as whoever appends tells.
func conflicted(err error) bool {
	var conflict interface{ AppendConflict() bool }
	return errors.As(err, &conflict) && conflict.AppendConflict()
}

func classifyState(code string, ofHandler bool) (tokenstore.FaultKind, string) {
	switch code {
	case "42P01":
		return tokenstore.DefinitionFault, "TableMissing"
	case "42703":
		return tokenstore.DefinitionFault, "ColumnMissing"
	case "42601":
		return tokenstore.DefinitionFault, "SyntaxError"
	case "42501":
		return tokenstore.DefinitionFault, "PermissionDenied"
	case "55P03":
		return tokenstore.ContentionFault, "LockNotAvailable"
	case "SL002": // a handler's append met another one
		return tokenstore.ContentionFault, "AppendConflict"
	case "SL003":
		return tokenstore.DefinitionFault, "IsolationChanged"
	case "25006":
		return tokenstore.InfrastructureFault, ReasonReadOnly
	}
	switch code[:2] {
	case "42", "0A", "3F", "26":
		return tokenstore.DefinitionFault, "StatementInvalid"
	case "40":
		return tokenstore.ContentionFault, "TransactionRolledBack"
	case "08", "28", "3D", "53", "58":
		return tokenstore.InfrastructureFault, ReasonServerError
	}
	if code[:3] == "57P" || !ofHandler {
		return tokenstore.InfrastructureFault, ReasonServerError
	}
	return tokenstore.EventFault, ReasonFailed
}

// Culprit returns the index of the one event of a batch that an error is of, where the handler has
// told it.
func Culprit(err error, events []*Event) (index int, known bool) {
	position, known := int64(0), len(events) == 1
	var one *EventError
	var call *CallError
	switch {
	case known:
		return 0, true
	case errors.As(err, &one):
		position, known = one.Position, true
	case errors.As(err, &call) && len(call.Positions) == 1:
		position, known = call.Positions[0], true
	}
	if !known {
		return 0, false
	}
	index = slices.IndexFunc(events, func(e *Event) bool { return e.Position == position })
	return index, index >= 0
}

// SQLErrorOf returns PostgreSQL's part in an error, nil where it has none. What may hold data of
// events is in it only with details.
func SQLErrorOf(err error, details bool) *tokenstore.SQLError {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return nil
	}
	e := &tokenstore.SQLError{State: pg.Code, Schema: pg.SchemaName, Table: pg.TableName, Column: pg.ColumnName,
		Constraint: pg.ConstraintName, Hint: pg.Hint, Position: pg.Position}
	if details {
		e.Detail = pg.Detail
	}
	return e
}

// BeforeCommit reports whether an error is of user's code that ran before a commit was sent, or was
// not called: nothing has been committed. Code that would have ended its transaction is refused
// before anything is sent, also where the connection is closed then.
func BeforeCommit(err error) bool {
	var user *UserError
	return errors.As(err, &user) || errors.Is(err, errConnection) || errors.Is(err, tokenstore.ErrSwallowed) ||
		errors.Is(err, tokenstore.ErrManagedTransaction) || NotCalled(err)
}

// NotCalled reports whether an error is of a batch that got no connection: nothing was sent, and a
// handler that writes by itself was not called.
func NotCalled(err error) bool {
	var user *UserError
	return errors.Is(err, tokenstore.ErrNoConnection) && !errors.As(err, &user)
}

// quotedValue is a value that PostgreSQL's message quotes, in the quotation marks of its languages.
var quotedValue = regexp.MustCompile(`"[^"]*"|«[^»]*»|„[^“]*“|“[^”]*”`)

// MessageOf returns an error's text for people. Values that PostgreSQL quotes from data that it
// cannot read (class 22) are in it only with details.
func MessageOf(err error, details bool) string {
	text := err.Error()
	var pg *pgconn.PgError
	switch is := errors.As(err, &pg); {
	case is && details && pg.Detail != "":
		text += ": " + pg.Detail
	case is && !details && strings.HasPrefix(pg.Code, "22"):
		text = strings.ReplaceAll(text, pg.Message, quotedValue.ReplaceAllString(pg.Message, `"…"`))
	}
	return Printable(text)
}

// longestMessage is how many characters of an error's text are kept.
const longestMessage = 2000

// Printable makes a text of the user's code one that can be stored and shown: PostgreSQL and JSON
// take no NUL and nothing that is not UTF-8, and it travels with every heartbeat.
func Printable(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if runes := []rune(text); len(runes) > longestMessage {
		text = string(runes[:longestMessage]) + "…"
	}
	return text
}
