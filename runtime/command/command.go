// Package command holds the subcommands that every binary with a runtime has: Sluice's own, and those of users' programs
// with Go handlers.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
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
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt) }) // a second Ctrl-C ends at once
	os.Exit(run(ctx, root, os.Args[1:], os.Stderr))
}

// run returns the exit code.
func run(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	refuseArguments(root)
	root.SetArgs(args)
	ran, err := root.ExecuteContextC(ctx)
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "Error: %v\nSee '%s --help'.\n", err, ran.CommandPath())
		return 2
	default:
		fmt.Fprintf(stderr, "Error: %v\n", err)
		return 1
	}
}

// refuseArguments makes arguments that a command does not take a wrong call, and a subcommand that
// is not known, which cobra takes for an argument or, of all but the root, for a call for help.
func refuseArguments(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		refuseArguments(sub)
	}
	check := cmd.Args
	if cmd.HasSubCommands() {
		check = unknownCommand
		if !cmd.Runnable() {
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	if check == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		var usage *usageError
		if err == nil || errors.As(err, &usage) {
			return err
		}
		return &usageError{err}
	}
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("%q is no command of %s", args[0], cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		text += ": did you mean " + strings.Join(similar, " or ") + "?"
	}
	return errors.New(text)
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
