// Package pgconfig makes configurations of connections that do not depend on the process's
// environment.
//
// What must always hold: two processes with the same URL connect in the same way, whatever PG*
// variables, service files and password files they have.
package pgconfig

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Prefix is the prefix of the environment variables of PostgreSQL's clients and servers.
const Prefix = "PG"

var base, errBase = parse()

// New returns a configuration of a pool, and of a connection by its ConnConfig. The caller sets
// where to connect, as whom and how.
func New() (*pgxpool.Config, error) {
	if errBase != nil {
		return nil, errBase
	}
	return base.Copy(), nil
}

// parse makes the configuration that New copies. pgx reads PG* variables with any URL: PGSERVICE,
// for example, makes it fail, and PGREQUIREAUTH makes it refuse servers. So parse unsets them during
// the call. It runs while packages are initialised, before another goroutine can read the
// environment.
func parse() (config *pgxpool.Config, err error) {
	restore, err := withoutVariables(Prefix)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, restore()) }()
	config, err = pgxpool.ParseConfig("postgres://unset:unset@unset:5432/unset?sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("preparing connections: %w", err)
	}
	config.ConnConfig.Password = ""
	return config, nil
}

// withoutVariables unsets the environment variables with a prefix, and returns what sets them
// again.
func withoutVariables(prefix string) (restore func() error, err error) {
	aside := map[string]string{}
	restore = func() (err error) {
		for name, value := range aside {
			err = errors.Join(err, os.Setenv(name, value))
		}
		return err
	}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if err := os.Unsetenv(name); err != nil {
			return nil, errors.Join(err, restore())
		}
		aside[name] = value
	}
	return restore, nil
}
