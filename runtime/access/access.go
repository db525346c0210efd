// Package access is how a worker, and those who run one on their machine, find the way to a store: by a URL, or by a
// processor's spec and its mounted Secrets. Files are read again at every connect, so that credentials rotate, and may come
// late, without a restart.
package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// Target finds the way to a database; it is asked at every connect.
type Target = func(ctx context.Context) (postgres.Target, error)

// FromURL returns the way to the database that a URL names.
func FromURL(url string) (Target, error) {
	if _, err := definition.ParseStoreURL(url); err != nil {
		return nil, err
	}
	byURL := definition.Postgres{URLSecretRef: &definition.SecretKey{}}
	given := func(context.Context, string, string) ([]byte, error) { return []byte(url), nil }
	return func(ctx context.Context) (postgres.Target, error) { return connection.Target(ctx, byURL, given) }, nil
}

// FromFiles returns the way to a spec's store, whose Secrets are mounted below a folder: one folder for each, a file for
// each key.
func FromFiles(store definition.Store, folder string) (Target, error) {
	if store.Postgres == nil {
		return nil, errors.New("the store has no postgres: set spec.store.postgres")
	}
	return func(ctx context.Context) (postgres.Target, error) {
		return connection.Target(ctx, *store.Postgres, mounted(folder))
	}, nil
}

// mounted reads Secrets from files.
func mounted(folder string) connection.Secrets {
	return func(_ context.Context, name, key string) ([]byte, error) {
		data, err := os.ReadFile(filepath.Join(folder, name, key))
		if errors.Is(err, fs.ErrNotExist) {
			_, err := os.Stat(filepath.Join(folder, name))
			return nil, &connection.SecretNotFoundError{Name: name, Key: key, KeyOnly: err == nil}
		}
		if err != nil {
			return nil, fmt.Errorf("reading Secret %s: %w", name, err)
		}
		return data, nil
	}
}
