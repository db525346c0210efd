// Sluice is the one binary: the operator, the worker, and the commands for those who use them.
package main

import (
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/runtime/command"
)

func main() { command.Execute(rootCommand()) }

// rootCommand has a subcommand a file.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "Event processors for Kubernetes",
		Long: "Event processors for Kubernetes.\n\n" +
			"To run a processor on this machine: sluice dev -f processor.yaml\n" +
			"To see what is wrong on a cluster:  kubectl sluice status",
		Version:       command.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: displayName()},
	}
	root.AddCommand(operatorCommand(), command.Worker(nil), command.Dev(nil), command.Append(), command.Migrate(), command.Source(), command.Import(), command.Rebase())
	root.AddCommand(kubectlCommands()...)
	return root
}
