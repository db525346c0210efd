package handler

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// undone is a transaction of nothing.
type undone struct{ Transaction }

func (undone) InTx(_ context.Context, work func(tokenstore.Tx) error) error { return work(noTx{}) }

// noTx is an open transaction in which nothing is done.
type noTx struct{ pgx.Tx }

func (noTx) Conn() *pgx.Conn { return nil }

// TestTheEventThatFailsIsNamed has the third of four events fail, or panic: it is named, it is the user's code that is blamed, and the
// fourth is not handled.
func TestTheEventThatFailsIsNamed(t *testing.T) {
	broken := errors.New("no such account")
	for name, fail := range map[string]func() error{
		"an error": func() error { return broken },
		"a panic":  func() error { panic(broken) },
	} {
		t.Run(name, func(t *testing.T) {
			handled := 0
			h := Each(func(_ context.Context, _ pgx.Tx, e Event) error {
				if handled++; e.Type == "Closed" {
					return fail()
				}
				return nil
			})
			err := h.Apply(t.Context(), undone{}, events("a:Opened a:Paid b:Closed b:Opened"))
			var blamed *UserError
			if !errors.As(err, &blamed) || !strings.HasPrefix(err.Error(), "Closed at position 3: ") || !strings.Contains(err.Error(), broken.Error()) {
				t.Errorf("the error is %v", err)
			}
			if handled != 3 {
				t.Errorf("%d events were handled", handled)
			}
		})
	}
}

// TestWhatAHandlerWritesIntoItsEventsNobodyElseSees has handlers write into all that they are
// given: the events stay as they are, for other groups and for the next attempt.
func TestWhatAHandlerWritesIntoItsEventsNobodyElseSees(t *testing.T) {
	spoil := func(e *Event) {
		copy(e.Data, "XX")
		copy(e.Metadata, "XX")
		_ = append(e.Data, "XX"...)
		e.Replay.ID, e.Replay.Context["because"] = "XX", "XX"
		e.Type = "XX"
	}
	for name, h := range map[string]Handler{
		"Each":  Each(func(_ context.Context, _ pgx.Tx, e Event) error { spoil(&e); return nil }),
		"Set":   Set(func(_ context.Context, _ pgx.Tx, all []Event) error { spoil(&all[0]); return nil }),
		"Queue": Queue(func(_ *pgx.Batch, all []Event) error { spoil(&all[0]); return errors.New("no") }),
	} {
		t.Run(name, func(t *testing.T) {
			given := func() *Event {
				return &Event{Position: 1, Type: "Paid", Data: json.RawMessage(`{}`), Metadata: json.RawMessage(`[]`),
					Replay: &Replay{ID: "fix", Context: map[string]string{"because": "why"}}}
			}
			event := given()
			_ = h.Apply(t.Context(), undone{}, []*Event{event}) // what becomes of it does not matter
			if diff := cmp.Diff(given(), event); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func (undone) Queue(_ context.Context, queue func(tokenstore.Statements) error) error {
	return queue(&pgx.Batch{})
}

// TestALostConnectionOfCodeThatQueuesIsItsOwn: the function is called before its batch has one.
func TestALostConnectionOfCodeThatQueuesIsItsOwn(t *testing.T) {
	err := Queue(func(*pgx.Batch, []Event) error {
		return &pgconn.PgError{Severity: "FATAL", Code: "57P01"}
	}).Apply(t.Context(), undone{}, []*Event{{}})
	if kind, reason := Classify(err, postgres.Errors{}); !Elsewhere(err) || reason != ReasonServerError {
		t.Errorf("it is a %s, %s: %v", kind, reason, err)
	}
}
