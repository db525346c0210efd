package pgproxy

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Message is what a client sends, with what came before it on the same connection. It is valid only while a predicate looks at it.
type Message struct {
	// Application is the connection's application_name, as it was given at the start.
	Application string
	// Frontend is the message as it came.
	Frontend pgproto3.FrontendMessage
	// SQL of the statement that a Query, Parse, Bind or Execute is about; empty for other messages.
	SQL string
	// Transaction holds the statements that the transaction which is open has run, in order, this one included. Those of a
	// pipeline count as soon as they are sent.
	Transaction []string

	block bool // the transaction was begun with BEGIN
}

// Runs reports whether the message has the server run a statement: a Query or an Execute.
func (m Message) Runs() bool {
	switch m.Frontend.(type) {
	case *pgproto3.Query, *pgproto3.Execute:
		return true
	}
	return false
}

// IsQuery reports whether the message is a Query, which takes a round trip of its own.
func (m Message) IsQuery() bool {
	_, ok := m.Frontend.(*pgproto3.Query)
	return ok
}

// Commits reports whether the message has the server commit what it has run: a COMMIT sent as a Query or within a pipeline, a Query
// outside of a transaction block, or the Sync that ends a pipeline outside of one.
func (m Message) Commits() bool {
	switch m.Frontend.(type) {
	case *pgproto3.Query:
		return isCommit(m.SQL) || !m.block && !isBegin(m.SQL)
	case *pgproto3.Execute:
		return isCommit(m.SQL)
	case *pgproto3.Sync: // what comes behind a COMMIT in the pipeline is none of what that has committed
		return !m.block && len(m.Transaction) > 0 && !slices.ContainsFunc(m.Transaction, isCommit)
	}
	return false
}

// Ran reports whether the transaction has run, for each of the texts, a statement that contains it.
func (m Message) Ran(texts ...string) bool {
	for _, text := range texts {
		if !slices.ContainsFunc(m.Transaction, func(sql string) bool { return strings.Contains(sql, text) }) {
			return false
		}
	}
	return true
}

// transcript is what one connection has said so far, as far as it matters to what comes.
type transcript struct {
	application       string
	prepared, portals map[string]string // texts by name
	ran               []ran             // of the transaction that is open
	sent, answered    int               // requests: a Query, or all up to a Sync
	status            byte              // of the last answer
}

// ran is a statement and the request that it is part of, counted from 1.
type ran struct {
	sql     string
	request int
}

func newTranscript() transcript {
	return transcript{prepared: map[string]string{}, portals: map[string]string{}, status: 'I'}
}

// note adds a message.
func (t *transcript) note(message pgproto3.FrontendMessage) Message {
	m := Message{Application: t.application, Frontend: message, block: t.block()}
	switch f := message.(type) {
	case *pgproto3.Query:
		m.SQL = f.String
	case *pgproto3.Parse:
		m.SQL = f.Query
		t.prepared[f.Name] = f.Query
	case *pgproto3.Bind:
		m.SQL = t.prepared[f.PreparedStatement]
		t.portals[f.DestinationPortal] = m.SQL
	case *pgproto3.Execute:
		m.SQL = t.portals[f.Portal]
	case *pgproto3.Close:
		delete(map[byte]map[string]string{'S': t.prepared, 'P': t.portals}[f.ObjectType], f.Name)
	}
	if m.Runs() {
		t.ran = append(t.ran, ran{m.SQL, t.sent + 1})
	}
	for _, r := range t.ran {
		m.Transaction = append(m.Transaction, r.sql)
	}
	if endsRequest(message) {
		t.sent++
	}
	return m
}

// current is the number of the request that a message belongs to which has just been noted.
func (t *transcript) current(message pgproto3.FrontendMessage) int {
	if endsRequest(message) {
		return t.sent
	}
	return t.sent + 1
}

// ready takes note of the end of an answer.
func (t *transcript) ready(status byte) {
	t.answered++
	if t.status = status; status == 'I' {
		t.ran = slices.DeleteFunc(t.ran, func(r ran) bool { return r.request <= t.answered })
	}
}

// block reports whether a transaction block is open, by the last answer and what has been sent since.
func (t *transcript) block() bool {
	open := t.status != 'I'
	for _, r := range t.ran {
		switch {
		case r.request <= t.answered:
		case isBegin(r.sql):
			open = true
		case isCommit(r.sql), begins(r.sql, "rollback", "abort"):
			open = false
		}
	}
	return open
}

// endsRequest reports whether the server answers a message with a ReadyForQuery.
func endsRequest(message pgproto3.FrontendMessage) bool {
	switch message.(type) {
	case *pgproto3.Query, *pgproto3.Sync, *pgproto3.FunctionCall:
		return true
	}
	return false
}

func isBegin(sql string) bool { return begins(sql, "begin", "start") }

func isCommit(sql string) bool { return begins(sql, "commit", "end") }

// begins reports whether a statement begins with one of some words.
func begins(sql string, words ...string) bool {
	first := strings.Fields(strings.ToLower(strings.NewReplacer(";", " ", "(", " ").Replace(sql)))
	return len(first) > 0 && slices.Contains(words, first[0])
}
