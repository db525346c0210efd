package handler

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
)

// Replay is what handlers are told about the one that has them handle events again.
type Replay = eventsource.Replay

// Resetter is a Handler that can take back what it has written, so that events can be handled again.
type Resetter interface {
	// Reset runs in the transaction that moves the tokens, before they move.
	Reset(ctx context.Context, tx tokenstore.Tx, replay Replay) error
}

// ResetterOf returns a handler's reset; false where it has none.
func ResetterOf(h Handler) (Resetter, bool) {
	if sql, ok := h.(*SQL); ok && sql.reset == "" {
		return nil, false
	}
	r, ok := h.(Resetter)
	return r, ok
}

type withReset struct {
	Handler
	reset func(context.Context, pgx.Tx, Replay) error
}

// WithReset makes a handler that can be replayed: reset takes back what it has written.
func WithReset(h Handler, reset func(ctx context.Context, tx pgx.Tx, replay Replay) error) Handler {
	return &withReset{h, reset}
}

// Reset implements Resetter. Its errors are those of the user's code, unless the connection is gone.
func (h *withReset) Reset(ctx context.Context, in tokenstore.Tx, replay Replay) error {
	tx, err := postgresTx(in)
	if err != nil {
		return err
	}
	return guard(tx, func() error { return h.reset(ctx, tx, replay) })
}

// Reset implements Resetter. The commands run as one string, in which the server refuses transaction control. They find the
// replay in the settings sluice.replay_id and sluice.replay_context, the latter a JSON object.
func (h *SQL) Reset(ctx context.Context, in tokenstore.Tx, replay Replay) error {
	tx, err := postgresTx(in)
	if err != nil {
		return err
	}
	told, err := contextJSON(replay.Context)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `SELECT set_config('sluice.replay_id', $1, true), set_config('sluice.replay_context', $2, true)`, replay.ID, told)
	if err != nil {
		return fmt.Errorf("telling the reset of its replay: %w", err)
	}
	if _, err := tx.Exec(ctx, asString(h.reset), pgx.QueryExecModeSimpleProtocol); err != nil {
		return &UserError{Err: fmt.Errorf("handler.sql.reset: %w", err)}
	}
	return nil
}

// asString has PL/pgSQL carry commands out that are given to it as a string.
func asString(commands string) string {
	outer, inner := dollarQuote(commands, "sluice"), dollarQuote(commands, "reset")
	return fmt.Sprintf("DO %[1]sBEGIN EXECUTE %[2]s%[3]s%[2]s; END%[1]s", outer, inner, commands)
}

// dollarQuote returns a quote that does not occur in the text.
func dollarQuote(text, name string) string {
	quote := "$" + name + "$"
	for strings.Contains(text, quote) {
		name += "_"
		quote = "$" + name + "$"
	}
	return quote
}

func contextJSON(context map[string]string) (string, error) {
	if len(context) == 0 {
		return "{}", nil
	}
	told, err := json.Marshal(context)
	if err != nil {
		return "", fmt.Errorf("writing the replay's context: %w", err)
	}
	return string(told), nil
}
