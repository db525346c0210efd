package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/images"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
	"github.com/sluice-project/sluice/hack/cluster/internal/provider"
)

// simple is a command without arguments that works on the cluster in use.
func simple(log *progress.Log, use, short string, f func(context.Context, provider.Provider) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := open(log)
			if err != nil {
				return err
			}
			return f(cmd.Context(), p)
		},
	}
}

func open(log *progress.Log) (provider.Provider, error) {
	store, err := binaries.Open(log)
	if err != nil {
		return nil, err
	}
	return provider.For(store, log)
}

// clusterCommands work on every kind of cluster.
func clusterCommands(log *progress.Log) []*cobra.Command {
	return []*cobra.Command{
		simple(log, "up", "Bring the cluster up, or check and repair it", func(ctx context.Context, p provider.Provider) error {
			if err := p.Up(ctx); err != nil {
				return err
			}
			return printKubeconfig(ctx, p, "export KUBECONFIG=")
		}),
		simple(log, "down", "Remove the cluster, PostgreSQL and all their data", func(ctx context.Context, p provider.Provider) error {
			return p.Down(ctx)
		}),
		simple(log, "status", "Say what runs", func(ctx context.Context, p provider.Provider) error {
			return p.Status(ctx, os.Stdout)
		}),
		simple(log, "kubeconfig", "Print the path of a kubeconfig for the cluster", func(ctx context.Context, p provider.Provider) error {
			return printKubeconfig(ctx, p, "")
		}),
		imageCommand(log),
	}
}

func printKubeconfig(ctx context.Context, p provider.Provider, before string) error {
	path, err := p.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	fmt.Println(before + path)
	return nil
}

func imageCommand(log *progress.Log) *cobra.Command {
	return &cobra.Command{
		Use:   "image NAME=path[,path…] …",
		Short: "Make images of static programs, bring them to the cluster's nodes and print their names",
		Long: `Make images of static programs, bring them to the cluster's nodes and print their names, one a line.

The first program of an image is its entrypoint. A NAME without a registry gets IMAGE_PREFIX before it
(sluice.local/ by default). A NAME without a tag gets one from its content: the same programs make the same name.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := open(log)
			if err != nil {
				return err
			}
			all := make([]*images.Image, len(args))
			for i, arg := range args {
				spec, err := images.ParseSpec(arg)
				if err != nil {
					return err
				}
				if all[i], err = images.Build(spec, provider.Prefix(os.Getenv("IMAGE_PREFIX"))); err != nil {
					return err
				}
			}
			err = log.Step(fmt.Sprintf("bringing %d images to the nodes", len(all)), func() error { return p.Load(cmd.Context(), all) })
			if err != nil {
				return err
			}
			for _, image := range all {
				fmt.Println(image.Ref)
			}
			return nil
		},
	}
}

// postgresCommands start and stop the database of the demo and the tests.
func postgresCommands(log *progress.Log) []*cobra.Command {
	mode := "fast"
	stop := simple(log, "postgres-stop", "Stop PostgreSQL and keep its data", func(ctx context.Context, p provider.Provider) error {
		return p.StopPostgres(ctx, mode)
	})
	stop.Flags().StringVar(&mode, "mode", mode, "fast (closes connections), or immediate (as if the machine had failed)")
	return []*cobra.Command{
		simple(log, "postgres", "Start a PostgreSQL that pods reach as postgres.default.svc", func(ctx context.Context, p provider.Provider) error {
			url, err := p.Postgres(ctx)
			if err != nil {
				return err
			}
			fmt.Printf("export DATABASE_URL='%s'\nexport POD_DATABASE_URL='%s'\n", url, provider.PodURL)
			return nil
		}),
		stop,
		simple(log, "postgres-start", "Start PostgreSQL again on the data it has", func(ctx context.Context, p provider.Provider) error {
			return p.StartPostgres(ctx)
		}),
		simple(log, "postgres-down", "Remove PostgreSQL and its data", func(ctx context.Context, p provider.Provider) error {
			return p.RemovePostgres(ctx)
		}),
	}
}
