package handler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/definition"
)

// statement is one of them, as it is sent.
type statement struct {
	types
	own     string // as its user wrote it
	bare    string // over no events, and so without parameters
	text    string // of a call over several events, or over the one if each is set
	alone   string // of a call over one event
	mixed   string // of a call over several events that text is not for; empty if there are none
	each    bool   // once for each event, not once for all
	byValue bool
}

// Names of the common table expression: `events` for a batch, `event` for a single one.
const (
	eventsName = "events"
	eventName  = "event"
)

func newStatement(spec definition.Statement, from Events) statement {
	s := statement{types: typesOf(spec.EventTypes), own: spec.Batch, each: spec.Each != "", byValue: from.ByValue}
	name := eventsName
	if s.each {
		s.own, name = spec.Each, eventName
	}
	with := func(replay, context, ordinal, from string) string {
		return withEvents(name, s.own, replay, context, ordinal, from)
	}
	if from.ByValue {
		s.bare = with("e.replay", noContext, "e.ordinal", nothingByValue)
		s.alone = with("e.replay", replayContext, "e.ordinal", oneByValue)
		s.text = with("e.replay", replayContext, "e.ordinal", manyByValue)
	} else {
		s.bare = with("r.replay", noContext, "r.ordinal", fromNothing+from.Join)
		s.alone = with("r.replay", replayContext, "r.ordinal", fromScalars+from.Join)
		s.text = with("$2::boolean", replayContext, "row_number() OVER (ORDER BY e.position)", from.At)
		s.mixed = with("r.replay", replayContext, "r.ordinal", fromArrays+from.Join+" ORDER BY r.ordinal")
	}
	if s.each {
		s.text, s.mixed = s.alone, ""
	}
	return s
}

// StatementError says what is wrong with a statement that the server has not refused, or not
// clearly.
type StatementError struct {
	Statement int
	Problem   string // goes on after the statement's name
}

func (e *StatementError) Error() string {
	return fmt.Sprintf("statements[%d] %s", e.Statement, e.Problem)
}

// check has the server parse the statement, without running it.
func (s *statement) check(ctx context.Context, conn *pgx.Conn, at int) error {
	if problem := problemOf(s.own); problem != "" {
		return &StatementError{at, problem}
	}
	// Sluice's own parameters would bind the user's. Over no events there are none but the user's.
	parsed, err := conn.Prepare(ctx, "", s.bare)
	if aboutParameter(err) || err == nil && len(parsed.ParamOIDs) > 0 {
		return &StatementError{at, "has a parameter: read what it needs from the events instead"}
	}
	err = s.located(s.bare, err)
	if err == nil {
		_, err = conn.Prepare(ctx, "", s.text)
		err = s.located(s.text, err)
	}
	if err != nil {
		return fmt.Errorf("statements[%d]: %w", at, err)
	}
	return nil
}

// PlaceError is an error that the server has found at a place in a user's statement.
type PlaceError struct {
	Line   int    // from 1
	Column int    // in characters, from 1
	Text   string // of the line
	Err    error
}

func (e *PlaceError) Error() string {
	return fmt.Sprintf("%s at line %d, column %d", e.Err, e.Line, e.Column)
}
func (e *PlaceError) Unwrap() error { return e.Err }

// located finds the place of an error, which the server counts in the text that was sent to it, in
// what the user wrote. Both end alike, behind the events.
func (s *statement) located(sent string, err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Position == 0 {
		return err
	}
	own := trimmed(s.own)
	_, _, rest := splitWith(own)
	at := utf8.RuneCountInString(own) - (utf8.RuneCountInString(sent) - int(server.Position-1))
	before := []rune(own)
	if at < utf8.RuneCountInString(own[:len(own)-len(rest)]) || at > len(before) {
		return err
	}
	before = before[:at]
	first := at
	for first > 0 && before[first-1] != '\n' {
		first--
	}
	text, _, _ := strings.Cut(string([]rune(own)[first:]), "\n")
	return &PlaceError{Line: strings.Count(string(before), "\n") + 1, Column: at - first + 1, Text: strings.TrimRight(text, "\r"), Err: err}
}

// trimmed is a statement without what may end it.
func trimmed(text string) string { return strings.TrimRight(text, "; \t\r\n") }

// aboutParameter reports whether the server refuses a parameter: for want of its type, for having
// two, or for its number.
func aboutParameter(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case pgerrcode.UndefinedParameter, pgerrcode.AmbiguousParameter:
		return true
	case pgerrcode.IndeterminateDatatype: // also of an empty array
		return strings.Contains(pg.Message, "$")
	}
	return false
}

// problemOf says why a text cannot be a statement; empty where it looks like one.
func problemOf(text string) string {
	_, rest := splitBlanks(text)
	word, _ := splitWord(rest)
	word = strings.ToUpper(word)
	switch word {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE":
		return ""
	case "":
		if strings.HasPrefix(rest, "(") {
			return ""
		}
		if rest == "" || rest[0] == ';' {
			return "is empty: write one " + statementKinds
		}
		_, n := utf8.DecodeRuneInString(rest)
		word = rest[:n]
	}
	problem := fmt.Sprintf("begins with %s: a statement has to be one %s, since Sluice puts the events before it", word, statementKinds)
	if instead := insteadOf[word]; instead != "" {
		problem += "; " + instead
	}
	return problem
}

// statementKinds are those that PostgreSQL allows a common table expression before.
const statementKinds = "SELECT, INSERT, UPDATE, DELETE, MERGE or WITH"

// insteadOf says what to write instead of a command.
var insteadOf = map[string]string{
	"TRUNCATE": "put TRUNCATE into reset, or write DELETE FROM the table",
	"REFRESH":  inFunction,
	"CALL":     "make a function of the procedure and SELECT it",
	"DO":       inFunction,
	"COPY":     "write INSERT INTO ... SELECT",
	"LOCK":     "lock rows with SELECT ... FOR UPDATE, or " + inFunction,
	"NOTIFY":   "write SELECT pg_notify('channel', 'payload') FROM events",
	"SET":      "write SELECT set_config('name', 'value', true), which lasts until the end of the batch",
	"EXECUTE":  "write the statement itself",

	"BEGIN": ownTransaction, "START": ownTransaction, "COMMIT": ownTransaction, "END": ownTransaction, "ROLLBACK": ownTransaction,
	"ABORT": ownTransaction, "SAVEPOINT": ownTransaction, "RELEASE": ownTransaction, "PREPARE": ownTransaction,

	"CREATE": inSetup, "ALTER": inSetup, "DROP": inSetup, "GRANT": inSetup, "REVOKE": inSetup, "COMMENT": inSetup,

	"VACUUM": maintenance, "ANALYZE": maintenance, "REINDEX": maintenance, "CLUSTER": maintenance,
}

const (
	inFunction     = "put it into a function, made in setup, and SELECT that"
	ownTransaction = "leave it out: each batch is one transaction, which Sluice commits together with the token"
	inSetup        = "put it into setup"
	maintenance    = "run it apart from Sluice"
)

// splitWith splits off what stands before the first common table expression: WITH or WITH
// RECURSIVE. Where the statement has none, with is empty.
func splitWith(text string) (before, with, rest string) {
	before, rest = splitBlanks(text)
	word, after := splitWord(rest)
	if !strings.EqualFold(word, "WITH") {
		return before, "", rest
	}
	blanks, name := splitBlanks(after)
	word, afterWord := splitWord(name)
	if !strings.EqualFold(word, "RECURSIVE") {
		return before, "WITH" + blanks, name
	}
	// The word may also be an expression's name: then its columns or AS are next.
	more, next := splitBlanks(afterWord)
	if word, _ := splitWord(next); strings.EqualFold(word, "AS") || strings.HasPrefix(next, "(") {
		return before, "WITH" + blanks, name
	}
	return before, "WITH" + blanks + "RECURSIVE" + more, next
}

// splitBlanks splits off white space and comments, as the server's scanner does.
func splitBlanks(text string) (blanks, rest string) {
	for rest = text; rest != ""; {
		switch {
		case strings.ContainsRune(" \t\r\n\f\v", rune(rest[0])):
			rest = rest[1:]
		case strings.HasPrefix(rest, "--"):
			rest = rest[lineEnd(rest):]
		case strings.HasPrefix(rest, "/*"):
			rest = rest[commentEnd(rest):]
		default:
			return text[:len(text)-len(rest)], rest
		}
	}
	return text, ""
}

func lineEnd(text string) int {
	if end := strings.IndexAny(text, "\r\n"); end >= 0 {
		return end
	}
	return len(text)
}

// commentEnd is where a comment ends that the text begins with. Comments nest.
func commentEnd(text string) int {
	depth := 0
	for i := 0; i+1 < len(text); i++ {
		switch text[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(text)
}

// splitWord splits off a key word or a name without quotes; none where the text begins otherwise.
func splitWord(text string) (word, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '$' && r < utf8.RuneSelf
	})
	if end < 0 {
		end = len(text)
	}
	if end > 0 && (text[0] >= '0' && text[0] <= '9' || text[0] == '$') {
		end = 0
	}
	return text[:end], text[end:]
}
