package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// migrateFlags say what is migrated, and for whom.
type migrateFlags struct {
	database              databaseFlags
	print                 bool
	ownerRole, workerRole string
}

// Migrate is the command that brings a store's tables up to date.
func Migrate() *cobra.Command {
	var f migrateFlags
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring a store's tables up to date, or print the SQL that does",
		Long: "Bring a store's tables up to date. Workers do this themselves, unless spec.store.postgres.migrations is Manual or their role may not.\n" +
			"With --worker-role, the tables belong to the role that migrates, and the workers' role gets only the privileges that it needs.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.print {
				return f.script(cmd)
			}
			return f.run(cmd)
		},
	}
	f.database.add(cmd)
	cmd.Flags().BoolVar(&f.print, "print", false, "print the SQL of all steps for an empty database, and connect to nothing")
	cmd.Flags().StringVar(&f.ownerRole, "owner-role", "", "existing role that is to own the tables; taken by SET ROLE")
	cmd.Flags().StringVar(&f.workerRole, "worker-role", "", "existing role of the workers, which is granted what workers need")
	return cmd
}

func (f *migrateFlags) script(cmd *cobra.Command) error {
	text, err := postgres.Script(f.database.schema)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if f.ownerRole != "" {
		fmt.Fprintf(out, "%s;\n\n", setRole(f.ownerRole))
	}
	fmt.Fprint(out, text)
	if f.workerRole != "" {
		fmt.Fprintf(out, "-- what workers need\n%s", postgres.Grants(f.database.schema, f.workerRole))
	}
	return nil
}

func setRole(name string) string { return "SET ROLE " + pgx.Identifier{name}.Sanitize() }

func (f *migrateFlags) run(cmd *cobra.Command) (err error) {
	ctx := cmd.Context()
	target, err := f.database.target()
	if err != nil {
		return err
	}
	conn, err := postgres.Connect(ctx, postgres.Options{Target: target, Application: "sluice migrate"})
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if err := access.CheckEncoding(ctx, conn); err != nil {
		return err
	}
	if f.ownerRole != "" {
		if _, err := conn.Exec(ctx, setRole(f.ownerRole)); err != nil {
			return fmt.Errorf("taking the role of --owner-role: %w", err)
		}
	}
	done, err := postgres.Migrate(ctx, conn, f.database.schema)
	out := cmd.OutOrStdout()
	for _, step := range done {
		fmt.Fprintf(out, "applied %s\n", step)
	}
	if err != nil {
		return err
	}
	version, err := postgres.SchemaVersion(ctx, conn, f.database.schema)
	if err != nil {
		return err
	}
	if len(done) == 0 {
		fmt.Fprintln(out, "nothing to do")
	}
	fmt.Fprintf(out, "schema %s is at version %d\n", f.database.schema, version)
	return f.grant(ctx, cmd, conn)
}

func (f *migrateFlags) grant(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
	if f.workerRole == "" {
		return nil
	}
	text := postgres.Grants(f.database.schema, f.workerRole)
	if _, err := conn.Exec(ctx, text, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("granting to the role of --worker-role: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "granted role %s what workers need (%d commands)\n", f.workerRole, strings.Count(text, ";\n"))
	return nil
}
