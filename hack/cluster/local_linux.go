package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/local"
	"github.com/sluice-project/sluice/hack/cluster/internal/node"
	"github.com/sluice-project/sluice/hack/cluster/internal/process"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// runHidden runs the command by which this program starts itself again, and says false for any other.
func runHidden(name string, args []string) bool {
	if name != process.StageCommand || len(args) != 1 {
		return false
	}
	inside, insideArgs, err := process.Stage(args[0])
	if err == nil && inside == node.Command && len(insideArgs) == 1 {
		err = node.Run(insideArgs[0])
	}
	fmt.Fprintln(os.Stderr, "Error:", err)
	os.Exit(1)
	return true
}

// faultCommands break the cluster on this machine, for tests and for curiosity, and look into it.
func faultCommands(log *progress.Log) []*cobra.Command {
	one := func(use, short string, args cobra.PositionalArgs, f func(*cobra.Command, *local.Cluster, []string) error) *cobra.Command {
		cmd := &cobra.Command{
			Use: use, Short: short, Args: args,
			RunE: func(cmd *cobra.Command, args []string) error {
				if os.Getenv("CONTEXT") != "" {
					return errors.New("this works only on the cluster that this program runs on this machine: unset CONTEXT")
				}
				store, err := binaries.Open(log)
				if err != nil {
					return err
				}
				c, err := local.Open(cmd.Context(), store, log, false)
				if err != nil {
					return err
				}
				defer c.Close()
				return f(cmd, c, args)
			},
		}
		cmd.Flags().SetInterspersed(false) // flags after a node belong to the command that runs there
		return cmd
	}
	return []*cobra.Command{
		one("cut NODE", "Take a node off the network; no connection is closed", cobra.ExactArgs(1),
			func(cmd *cobra.Command, c *local.Cluster, args []string) error { return c.Cut(cmd.Context(), args[0]) }),
		one("heal NODE", "Put a node back on the network", cobra.ExactArgs(1),
			func(cmd *cobra.Command, c *local.Cluster, args []string) error { return c.Heal(cmd.Context(), args[0]) }),
		one("apiserver-stop", "Kill the API server", cobra.NoArgs,
			func(_ *cobra.Command, c *local.Cluster, _ []string) error { return c.StopAPIServer() }),
		one("apiserver-start", "Start the API server again and wait until it is ready", cobra.NoArgs,
			func(cmd *cobra.Command, c *local.Cluster, _ []string) error { return c.StartAPIServer(cmd.Context()) }),
		one("enter NODE [COMMAND …]", "Run a command, or a shell, inside a node", cobra.MinimumNArgs(1),
			func(_ *cobra.Command, c *local.Cluster, args []string) error {
				line, err := c.Enter(args[0], args[1:])
				if err != nil {
					return err
				}
				c.Close()
				return syscall.Exec(line[0], line, os.Environ())
			}),
	}
}
