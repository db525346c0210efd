package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/tokenstore"
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
		Short: "Make a store that was restored from a dump one of the server that it is on now",
		Long: "Make a store that was restored from a dump, or copied logically, one of the server that it is on now. Tokens and events hold transaction ids, which\n" +
			"mean nothing on another server, so nothing runs there until they are replaced: each group goes on with exactly those events that it had not\n" +
			"handled in the dump. No worker may use the store meanwhile, and no writer the tables. Where there were late events, or the server has not had the\n" +
			"transactions yet, the tables of events are rewritten, which takes about as long as restoring them did.",
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
	err = postgres.Rebase(ctx, conn, f.database.schema, func(ctx context.Context, tx pgx.Tx, before []tokenstore.Progress) (after []tokenstore.Progress, err error) {
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
