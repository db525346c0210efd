package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// rebaseFlags say which store was moved, and which tables of users its events come from.
type rebaseFlags struct {
	database databaseFlags
	files    []string
}

// Rebase is the command for stores that were restored from a dump into another server.
func Rebase() *cobra.Command {
	var f rebaseFlags
	cmd := &cobra.Command{
		Use:   "rebase",
		Short: "Adapt a store that was restored from a dump to its new server",
		Long: "Adapt a store that was restored from a dump, or copied logically, to the server that it is on now. Tokens and events hold\n" +
			"transaction ids, which mean nothing on another server. Nothing runs there until this command has replaced them. Each group\n" +
			"then goes on with exactly those events that it had not handled in the dump.\n\n" +
			"No worker may use the store meanwhile, and no writer the tables. The tables of events are rewritten if there were late\n" +
			"events, or if the server has not reached their transaction ids yet. That takes about as long as restoring them did.",
		Example: "  sluice rebase --database-url postgres://admin@db/app\n  sluice rebase -f outbox.yaml",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.database.add(cmd)
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "manifest of an EventProcessor whose spec.source is a Table; once for each such table")
	return cmd
}

func (f *rebaseFlags) run(cmd *cobra.Command) (err error) {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	var tables []definition.Table
	for _, file := range f.files {
		manifest := sourceFlags{file: file}
		source, err := manifest.source()
		if err != nil {
			return err
		}
		if source.Postgres != nil {
			return fmt.Errorf("%s: the table of spec.source is in a database of its own (spec.source.postgres), and rebase is about the store: leave the manifest out", file)
		}
		tables = append(tables, *source.Table)
	}
	target, err := f.database.target()
	if err != nil {
		return err
	}
	conn, err := postgres.Connect(ctx, postgres.Options{Target: target, Application: "sluice rebase"})
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if _, err := postgres.Check(ctx, conn, f.database.schema); err != nil {
		return err
	}
	var tokens int
	var told []eventspostgres.Rebased
	err = postgres.Rebase(ctx, conn, f.database.schema, func(ctx context.Context, tx pgx.Tx, before []progress.Progress) (after []progress.Progress, err error) {
		tokens = len(before)
		after, told, err = eventspostgres.Rebase(ctx, tx, f.database.schema, tables, before)
		return after, err
	})
	if errors.Is(err, postgres.ErrAtHome) {
		fmt.Fprintln(out, err)
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range told {
		what := "left as it is"
		if r.Rewritten {
			what = "rewritten"
		}
		fmt.Fprintf(out, "%s %s; transactions that some group had passed and not handled: %d\n", r.Table, what, r.Late)
	}
	fmt.Fprintf(out, "the store belongs to this server now, with %d different tokens and boundaries\n", tokens)
	return nil
}
