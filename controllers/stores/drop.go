package stores

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// dropTimeout bounds one attempt to drop a processor's rows.
const dropTimeout = 10 * time.Second

// Drop deletes a processor's rows from its store, over a connection of its own. There is nothing to do in a store that is
// not the processor's, or that has no tables. The error of a store that cannot be used is a *Problem's text.
func (s *Stores) Drop(ctx context.Context, w Wanted) error {
	ctx, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	se := newSession(w.sessionKey(), w.store(), s.options, s.slots)
	err := se.drop(ctx, w)
	if err == nil {
		return nil
	}
	problem := problemOf(err, se.where())
	return errors.New(problem.Reason + ": " + problem.Message)
}

func (s *session) drop(ctx context.Context, w Wanted) error {
	pool, err := postgres.Open(s.connection())
	if err != nil {
		return err
	}
	defer pool.Close()
	meta, err := postgres.Check(ctx, pool, s.store.Schema)
	var migration *postgres.MigrationRequiredError
	if errors.As(err, &migration) && migration.Have == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if w.StoreID != meta.StoreID {
		return nil
	}
	if err := postgres.NewStore(pool, s.store.Schema).Drop(ctx, w.Name); err != nil {
		return err
	}
	return postgres.NewDirectory(pool, s.store.Schema).RemoveProcessor(ctx, w.Name)
}
