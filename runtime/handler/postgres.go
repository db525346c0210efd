package handler

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// The handlers of this package write to PostgreSQL, so that their store has to be one there.

// inTx gives work the transaction.
func inTx(ctx context.Context, t Transaction, work func(pgx.Tx) error) error {
	return t.InTx(ctx, func(in tokenstore.Tx) error {
		tx, err := postgresTx(in)
		if err != nil {
			return err
		}
		return work(tx)
	})
}

func postgresTx(tx tokenstore.Tx) (pgx.Tx, error) {
	if own, is := tx.(pgx.Tx); is {
		return own, nil
	}
	return nil, fmt.Errorf("the handler writes to PostgreSQL, and its store has transactions of the type %T", tx)
}

func postgresBatch(s tokenstore.Statements) (*pgx.Batch, error) {
	if own, is := s.(*pgx.Batch); is {
		return own, nil
	}
	return nil, fmt.Errorf("the handler writes to PostgreSQL, and its store has statements of the type %T", s)
}
