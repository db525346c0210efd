package handler

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// undone is a transaction of nothing.
type undone struct{ Transaction }

func (undone) InTx(_ context.Context, work func(pgx.Tx) error) error { return work(nil) }

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
