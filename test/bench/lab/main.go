package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Main parses the command line and runs a bench until it ends or is interrupted. The program exits with 1, and says which bench it was,
// where the bench returns an error.
func Main(name string, bench func(context.Context) error) {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\n%s: %v\n", name, err)
		os.Exit(1)
	}
}

// WithServer starts a PostgreSQL for a bench and stops it in the end.
func WithServer(ctx context.Context, settings map[string]string, bench func(*Server) error) (err error) {
	server, err := StartServer(ctx, settings)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	return bench(server)
}
