package command

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// sourceFlags say which table is prepared, and for whom.
type sourceFlags struct {
	database         databaseFlags
	file, workerRole string
	print            bool
}

// Source is the command for tables that events are read from.
func Source() *cobra.Command {
	cmd := &cobra.Command{Use: "source", Short: "Prepare a table of your own as a source of events", Args: cobra.NoArgs}
	var f sourceFlags
	prepare := &cobra.Command{
		Use:   "prepare -f FILE",
		Short: "Add the column and the index that a source of events needs",
		Long: "Add the column and the index that the table of an EventProcessor's spec.source needs, and check whether it can be read.\n" +
			"If the manifest has spec.source.postgres, the table is in the database of --source-url.\n\n" +
			"The column holds the transaction that inserted a row. It has a default, so writers need not set it. The table is not\n" +
			"rewritten. The new column needs an exclusive lock for a moment, for which the command waits in short attempts. The index\n" +
			"is created while others write. The command may be repeated: it leaves alone what exists.",
		Example: "  sluice source prepare -f payments.yaml --print\n  sluice source prepare -f payments.yaml --worker-role sluice_worker",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.database.add(prepare)
	f.database.addSource(prepare, "the database with the table, for a manifest with spec.source.postgres")
	prepare.Flags().StringVarP(&f.file, "file", "f", "", "manifest of the EventProcessor")
	prepare.Flags().BoolVar(&f.print, "print", false, "print the SQL, and connect to nothing")
	prepare.Flags().StringVar(&f.workerRole, "worker-role", "", "existing role of the workers, which is granted to read the table")
	cmd.AddCommand(prepare)
	return cmd
}

func (f *sourceFlags) run(cmd *cobra.Command) error {
	source, err := f.source()
	if err != nil {
		return err
	}
	if f.print {
		f.script(cmd, *source.Table)
		return nil
	}
	return f.prepare(cmd, source)
}

// source is that of the manifest.
func (f *sourceFlags) source() (definition.Source, error) {
	if f.file == "" {
		return definition.Source{}, &usageError{errors.New("--file is missing: name the manifest of the EventProcessor")}
	}
	data, err := os.ReadFile(f.file)
	if err != nil {
		return definition.Source{}, fmt.Errorf("reading the manifest: %w", err)
	}
	document, err := definition.ParseYAML(data)
	if err != nil {
		return definition.Source{}, fmt.Errorf("%s: %w", f.file, err)
	}
	if document.Spec.Source.Table == nil {
		return definition.Source{}, fmt.Errorf("%s: spec.source.type is %s, and only a Table has to be prepared", f.file, document.Spec.Source.Type)
	}
	return document.Spec.Source, nil
}

// grants are what the workers' role needs, if one is named.
func (f *sourceFlags) grants(t definition.Table) []string {
	if f.workerRole == "" {
		return nil
	}
	return eventspostgres.Preparation(t).Grants(t, f.workerRole)
}

func (f *sourceFlags) script(cmd *cobra.Command, t definition.Table) {
	out, p := cmd.OutOrStdout(), eventspostgres.Preparation(t)
	if t.Columns.Transaction == "" {
		fmt.Fprintln(out, "-- Without columns.transaction, nothing is added to the table.")
	} else {
		fmt.Fprintf(out, "-- The transaction that inserts a row. No rewrite; an exclusive lock for a moment. Nobody else may set it.\n%s;\n", p.AddColumn)
		fmt.Fprintf(out, "-- Finds events that become visible late. Beside writers; not in a transaction.\n%s;\n", p.CreateIndex)
	}
	for _, grant := range f.grants(t) {
		fmt.Fprintf(out, "%s;\n", grant)
	}
}

func (f *sourceFlags) prepare(cmd *cobra.Command, source definition.Source) (err error) {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	target, err := f.database.targetOf(source)
	if err != nil {
		return err
	}
	conn, err := postgres.Connect(ctx, postgres.Options{Target: target, Application: "sluice source"})
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if err := access.CheckEncoding(ctx, conn); err != nil {
		return err
	}
	// Reading a large table for its index takes as long as it takes.
	if _, err := conn.Exec(ctx, "SET statement_timeout = 0"); err != nil {
		return fmt.Errorf("lifting the limit on a statement's time: %w", err)
	}
	if err := f.hasRole(ctx, conn); err != nil {
		return err
	}
	tell := func(command string) { fmt.Fprintf(out, "%s\n", command) }
	if err := eventspostgres.Prepare(ctx, conn, *source.Table, tell); err != nil {
		return err
	}
	if err := f.grant(ctx, conn, *source.Table, tell); err != nil {
		return err
	}
	if err := eventspostgres.CheckTable(ctx, conn, *source.Table); err != nil {
		return err
	}
	fmt.Fprintf(out, "events can be read from %s\n", source.Table.Name)
	return nil
}

// hasRole returns an error where the workers' role is not there: nothing is altered then.
func (f *sourceFlags) hasRole(ctx context.Context, conn *pgx.Conn) error {
	if f.workerRole == "" || f.workerRole == "public" {
		return nil
	}
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", f.workerRole).Scan(&there); err != nil {
		return fmt.Errorf("looking for the role of --worker-role: %w", err)
	}
	if !there {
		return fmt.Errorf("--worker-role: there is no role %s: create it (CREATE ROLE %s LOGIN), or correct the name, in the same case", f.workerRole, pgx.Identifier{f.workerRole}.Sanitize())
	}
	return nil
}

func (f *sourceFlags) grant(ctx context.Context, conn *pgx.Conn, t definition.Table, tell func(string)) error {
	for _, grant := range f.grants(t) {
		tell(grant)
		if _, err := conn.Exec(ctx, grant); err != nil {
			return fmt.Errorf("granting to the role of --worker-role: %w", err)
		}
	}
	return nil
}
