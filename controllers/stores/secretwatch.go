package stores

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// secretsEvery is how often an open session checks that its Secrets could still open one.
const secretsEvery = 20 * time.Second

// target is the database that the Secrets name now, with a digest of their content.
func (s *session) target(ctx context.Context) (postgres.Target, string, error) {
	digest, secrets := sha256.New(), s.options.Secrets(s.key.namespace)
	target, err := connection.Target(ctx, s.store, func(ctx context.Context, name, key string) ([]byte, error) {
		value, err := secrets(ctx, name, key)
		fmt.Fprintf(digest, "%q %q %q\n", name, key, value)
		return value, err
	})
	return target, hex.EncodeToString(digest.Sum(nil)), err
}

// watchSecrets reports a Secret that was changed to something unusable. Open connections still use
// the old content. Without this check, the fault would show only when a new connection fails, such
// as that of a new pod.
func (s *session) watchSecrets(ctx context.Context, storeID string) {
	usable := ""
	if read := s.read.Load(); read != nil {
		usable = *read
	}
	s.setUnusable(nil)
	every := time.NewTicker(s.options.SecretsEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		target, digest, err := s.target(ctx)
		if err == nil && digest != usable {
			err = s.try(ctx, target, storeID)
		}
		var missing *connection.SecretNotFoundError
		var invalid *connection.InvalidError
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			usable = digest
			s.setUnusable(nil)
		case target.Host != "" || errors.As(err, &missing) || errors.As(err, &invalid):
			// Any other error comes from the API server and says nothing about the Secrets.
			problem := problemOf(err, placeOf(target))
			s.setUnusable(&problem)
		}
	}
}

// try connects once, and checks that it reaches the same store.
func (s *session) try(ctx context.Context, target postgres.Target, storeID string) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.ConnectTimeout)
	defer cancel()
	options := s.connection()
	options.Target = func(context.Context) (postgres.Target, error) { return target, nil }
	conn, err := postgres.Connect(ctx, options)
	if err != nil {
		return err
	}
	meta, err := postgres.Check(ctx, conn, s.store.Schema)
	if err == nil && meta.StoreID != storeID {
		err = &storeChangedError{belongs: storeID, found: meta.StoreID}
	}
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

func (s *session) setUnusable(problem *Problem) {
	s.mu.Lock()
	s.unusable = problem
	s.mu.Unlock()
	for _, p := range s.current() {
		p.setSecretProblem(problem)
	}
}
