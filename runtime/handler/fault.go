package handler

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

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
	ReasonServerError    = tokenstore.ReasonServerError
	ReasonReadOnly       = tokenstore.ReasonReadOnly
)

// Classify says what an error of Apply is evidence against, with a reason in CamelCase. The store
// classifies what its server has answered. Sluice's own statements are never evidence against an
// event, but for a time limit and for what a COMMIT raises: that comes from a deferred constraint of
// the user's. Time limits, and everything else that the handler itself fails with, are evidence
// against the event.
func Classify(err error, store tokenstore.Classifier) (tokenstore.FaultKind, string) {
	server := store.ServerError(err)
	var user *UserError
	inUserCode := errors.As(err, &user)
	switch {
	case NotCalled(err):
		return tokenstore.InfrastructureFault, "ConnectionFailed"
	case errors.Is(err, tokenstore.ErrManagedTransaction):
		return tokenstore.DefinitionFault, "TransactionEnded"
	case errors.Is(err, context.DeadlineExceeded):
		return tokenstore.EventFault, ReasonTimedOut
	case server != nil && server.TimeLimit:
		return tokenstore.EventFault, ReasonTimedOut
	case server != nil && server.Ended && !Elsewhere(err):
		return tokenstore.InfrastructureFault, "ConnectionEnded"
	case server != nil && server.Kind != tokenstore.EventFault:
		return server.Kind, server.Reason
	case server != nil && !ofHandler(err):
		return tokenstore.InfrastructureFault, ReasonServerError
	case server != nil:
		return tokenstore.EventFault, ReasonFailed
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

// SQLErrorOf returns the server's part in an error, nil where it has none. What may hold data of
// events is in it only with details.
func SQLErrorOf(err error, store tokenstore.Classifier, details bool) *tokenstore.SQLError {
	server := store.ServerError(err)
	if server == nil {
		return nil
	}
	e := server.SQL
	if !details {
		e.Detail = ""
	}
	return &e
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

// MessageOf returns an error's text for people. Values that the server quotes from data that it
// cannot read are in it only with details.
func MessageOf(err error, store tokenstore.Classifier, details bool) string {
	text := err.Error()
	server := store.ServerError(err)
	switch {
	case server != nil && details && server.SQL.Detail != "":
		text += ": " + server.SQL.Detail
	case server != nil && !details && server.QuotesData:
		text = strings.ReplaceAll(text, server.Message, quotedValue.ReplaceAllString(server.Message, `"…"`))
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
