package postgres

import (
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/tokenstore"
)

// Errors classifies the errors of pgx by their SQLSTATE:
//
//   - Infrastructure: classes 08, 28, 3D, 53, 57P and 58, and 25006.
//   - Contention: class 40, 55P03, and append conflicts.
//   - The definition: classes 42, 0A, 3F and 26.
//   - The event: time limits (57014, 25P03, 25P04), and everything else.
type Errors struct{}

var _ tokenstore.Classifier = Errors{}

// timeLimits are the SQLSTATEs of the server's time limits: of a statement, of a transaction at
// rest, and of a transaction.
var timeLimits = []string{pgerrcode.QueryCanceled, pgerrcode.IdleInTransactionSessionTimeout, "25P04"}

// copyFailed is the function of the server that has the SQLSTATE of a time limit for a COPY that its
// client has ended.
const copyFailed = "CopyGetData"

// ServerError implements tokenstore.Classifier.
func (Errors) ServerError(err error) *tokenstore.ServerError {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return nil
	}
	e := &tokenstore.ServerError{TimeLimit: slices.Contains(timeLimits, pg.Code) && pg.Routine != copyFailed, Ended: ends(pg),
		Message: pg.Message, QuotesData: strings.HasPrefix(pg.Code, "22"),
		SQL: tokenstore.SQLError{State: pg.Code, Schema: pg.SchemaName, Table: pg.TableName, Column: pg.ColumnName,
			Constraint: pg.ConstraintName, Hint: pg.Hint, Position: pg.Position, Detail: pg.Detail}}
	e.Kind, e.Reason = classify(pg.Code)
	return e
}

func classify(state string) (tokenstore.FaultKind, string) {
	switch state {
	case pgerrcode.UndefinedTable:
		return tokenstore.DefinitionFault, "TableMissing"
	case pgerrcode.UndefinedColumn:
		return tokenstore.DefinitionFault, "ColumnMissing"
	case pgerrcode.SyntaxError:
		return tokenstore.DefinitionFault, "SyntaxError"
	case pgerrcode.InsufficientPrivilege:
		return tokenstore.DefinitionFault, "PermissionDenied"
	case pgerrcode.LockNotAvailable:
		return tokenstore.ContentionFault, "LockNotAvailable"
	case "SL002": // a handler's append met another one
		return tokenstore.ContentionFault, "AppendConflict"
	case "SL003":
		return tokenstore.DefinitionFault, "IsolationChanged"
	case pgerrcode.ReadOnlySQLTransaction:
		return tokenstore.InfrastructureFault, tokenstore.ReasonReadOnly
	}
	switch class := state[:min(2, len(state))]; {
	case slices.Contains([]string{"42", "0A", "3F", "26"}, class):
		return tokenstore.DefinitionFault, "StatementInvalid"
	case class == "40":
		return tokenstore.ContentionFault, "TransactionRolledBack"
	case slices.Contains([]string{"08", "28", "3D", "53", "58"}, class), strings.HasPrefix(state, "57P"):
		return tokenstore.InfrastructureFault, tokenstore.ReasonServerError
	}
	return tokenstore.EventFault, ""
}

// Lost implements tokenstore.Classifier.
func (Errors) Lost(err error) bool { return IsLost(err) }

// IsLost reports whether an error leaves open what the server did: the connection was lost, or the
// server ended it.
func IsLost(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err != nil
	}
	return ends(pg)
}

// ends reports whether the server ends the session with an error.
func ends(pg *pgconn.PgError) bool { return pg.Severity == "FATAL" || pg.Severity == "PANIC" }
