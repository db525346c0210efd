package handler

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/tokenstore"
)

// Classify says what an error of Apply is evidence against, with a reason in CamelCase.
//
// Only SQLSTATE classes 22, 23, 44 and P0, and errors and timeouts of the user's code, speak against the event. Classes 42,
// 0A, 3F and 26 speak against the definition; 40 and 55P03 tell of contention; all else is infrastructure.
func Classify(err error) (tokenstore.FaultKind, string) {
	var pg *pgconn.PgError
	var user *UserError
	switch {
	case errors.Is(err, tokenstore.ErrManagedTransaction):
		return tokenstore.DefinitionFault, "TransactionEnded"
	case errors.Is(err, errConnection):
		return tokenstore.InfrastructureFault, "ConnectionLost"
	case errors.As(err, &pg) && pg.Severity != "FATAL" && pg.Severity != "PANIC":
		return classifyState(pg.Code, errors.As(err, &user))
	case pg != nil:
		return tokenstore.InfrastructureFault, "ConnectionEnded"
	case errors.As(err, &user) && user.Stack != "":
		return tokenstore.EventFault, "HandlerPanicked"
	case errors.As(err, &user) && errors.Is(err, context.DeadlineExceeded):
		return tokenstore.EventFault, "HandlerTimedOut"
	case errors.As(err, &user) && !errors.Is(err, context.Canceled):
		return tokenstore.EventFault, "HandlerFailed"
	}
	return tokenstore.InfrastructureFault, "ConnectionFailed"
}

func classifyState(code string, inUserCode bool) (tokenstore.FaultKind, string) {
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
	case "57014":
		if inUserCode {
			return tokenstore.EventFault, "HandlerTimedOut"
		}
		return tokenstore.InfrastructureFault, "StatementCanceled"
	}
	switch code[:2] {
	case "22", "23", "44", "P0":
		return tokenstore.EventFault, "HandlerFailed"
	case "42", "0A", "3F", "26":
		return tokenstore.DefinitionFault, "StatementInvalid"
	case "40":
		return tokenstore.ContentionFault, "TransactionRolledBack"
	}
	return tokenstore.InfrastructureFault, "ServerError"
}
