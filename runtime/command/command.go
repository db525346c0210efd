// Package command holds the subcommands that every binary with a runtime has: Sluice's own, and those of users' programs
// with Go handlers.
package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/runtime/handler"
)

// Version of the runtime, set by the linker.
var Version = "dev"

// Main runs the command line of a program with handlers and exits.
func Main(handlers map[string]handler.Handler) {
	root := &cobra.Command{
		Use:           "worker",
		Short:         "A program with handlers for Sluice",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       Version,
	}
	worker := Worker(handlers)
	root.RunE = worker.RunE
	root.AddCommand(worker, describe(handlers), Dev(orNone(handlers)), Append())
	Execute(root)
}

// Execute runs a command until it ends or the process is told to, and exits: with 0 when it succeeded, 1 when it did not,
// 2 when it was called wrongly.
func Execute(root *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	err := root.ExecuteContext(ctx)
	var usage *usageError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "Error: %v\nSee '%s --help'.\n", err, root.CommandPath())
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}

type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// orNone keeps a program that registers nothing apart from Sluice's own binary, which cannot.
func orNone(handlers map[string]handler.Handler) map[string]handler.Handler {
	if handlers == nil {
		return map[string]handler.Handler{}
	}
	return handlers
}

func describe(handlers map[string]handler.Handler) *cobra.Command {
	return &cobra.Command{
		Use:   "describe",
		Short: "List the handlers that this program has registered",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range names(handlers) {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return nil
		},
	}
}

func names(handlers map[string]handler.Handler) []string {
	all := make([]string, 0, len(handlers))
	for name := range handlers {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
