// Command cluster runs a real Kubernetes of two nodes on one Linux machine, builds the programs that it and the tests
// need, and brings images into whatever cluster is in use. See README.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

func main() {
	if len(os.Args) > 1 && runHidden(os.Args[1], os.Args[2:]) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := progress.Stderr()
	root := &cobra.Command{
		Use:           "cluster",
		Short:         "A real Kubernetes of two nodes on this machine, or the one that CONTEXT names",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(binaryCommands(log)...)
	root.AddCommand(clusterCommands(log)...)
	root.AddCommand(postgresCommands(log)...)
	root.AddCommand(faultCommands(log)...)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// binaryCommands build programs and print where they are.
func binaryCommands(log *progress.Log) []*cobra.Command {
	return []*cobra.Command{
		{
			Use:   "binaries",
			Short: "Build whatever the cluster needs and the cache does not hold",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				store, err := binaries.Open(log)
				if err != nil {
					return err
				}
				for _, p := range binaries.Catalogue {
					if p.Name == "kind" {
						continue
					}
					path, err := store.Ensure(cmd.Context(), p.Name)
					if err != nil {
						return err
					}
					fmt.Println(path)
				}
				return nil
			},
		},
		{
			Use:   "assets",
			Short: "Build etcd, kube-apiserver and kubectl and print the folder that holds them (KUBEBUILDER_ASSETS)",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				store, err := binaries.Open(log)
				if err != nil {
					return err
				}
				dir, err := store.Assets(cmd.Context())
				if err != nil {
					return err
				}
				fmt.Println(dir)
				return nil
			},
		},
		{
			Use:   "tool NAME",
			Short: "Build one program (helm, kubectl, …) and print its path",
			Args:  cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				store, err := binaries.Open(log)
				if err != nil {
					return err
				}
				path, err := store.Ensure(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				fmt.Println(path)
				return nil
			},
		},
	}
}
