// Package access is how a worker, and those who run one on their machine, find the way to a store,
// and to a source that is not in the store's database: by a URL, or by a processor's spec and its
// mounted Secrets. Files are read again at every connect, so that credentials rotate, and may come
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

// FromURL returns the way to the store that a URL names.
func FromURL(url string) (Target, error) { return fromURL(definition.UseStore, url) }

// SourceFromURL returns the way to the source's database that a URL names.
func SourceFromURL(url string) (Target, error) { return fromURL(definition.UseSource, url) }

func fromURL(use definition.DatabaseUse, url string) (Target, error) {
	if _, err := definition.ParseURL(use, url); err != nil {
		return nil, err
	}
	byURL := definition.Database{URLSecretRef: &definition.SecretKey{}}
	given := func(context.Context, string, string) ([]byte, error) { return []byte(url), nil }
	return func(ctx context.Context) (postgres.Target, error) { return connection.Target(ctx, use, byURL, given) }, nil
}

// FromFiles returns the way to a spec's store, whose Secrets are mounted below a folder: one folder for each, a file for
// each key.
func FromFiles(store definition.Store, folder string) (Target, error) {
	if store.Postgres == nil {
		return nil, errors.New("the store has no postgres: set spec.store.postgres")
	}
	return fromFiles(definition.UseStore, store.Postgres.Database, folder), nil
}

// SourceFromFiles returns the way to the database of a source, whose Secrets are mounted beside those
// of the store.
func SourceFromFiles(source definition.SourcePostgres, folder string) Target {
	return fromFiles(definition.UseSource, source.Database, folder)
}

func fromFiles(use definition.DatabaseUse, database definition.Database, folder string) Target {
	return func(ctx context.Context) (postgres.Target, error) {
		return connection.Target(ctx, use, database, mounted(folder))
	}
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
