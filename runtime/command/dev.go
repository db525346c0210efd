package command

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/runtime/dev"
	"github.com/sluice-project/sluice/runtime/handler"
)

// Dev is the command that runs a processor on a developer's machine. A program without handlers of its own passes nil.
func Dev(handlers map[string]handler.Handler) *cobra.Command {
	o := dev.Options{Handlers: handlers, Version: Version}
	var version string
	cmd := &cobra.Command{
		Use:   "dev -f processor.yaml",
		Short: "Run a processor on this machine and apply its file on each save",
		Long: "Run an EventProcessor on this machine, from the same file that is applied to a cluster. It needs no cluster and no root.\n" +
			"A change of the file takes effect when you save it.\n\n" +
			"Without --database-url it starts a PostgreSQL of its own and keeps its data in .sluice/postgres of the current folder.\n" +
			"If this machine has no PostgreSQL, it is fetched by npm once.\n\n" +
			"If the file has spec.source.postgres, --source-url names the database with the events. It reads no Secrets.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version != "" && version != "npm" {
				return &usageError{fmt.Errorf("--postgres-version is %q: leave it out for the PostgreSQL of this machine, or choose npm", version)}
			}
			o.Npm = version == "npm"
			o.Input, o.Out, o.Log = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			o.Colour = onTerminal(o.Out)
			return dev.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Manifest, "file", "f", "processor.yaml", "file with the EventProcessor")
	f.StringVar(&o.DatabaseURL, "database-url", os.Getenv(databaseURLVariable), "database to use instead of a PostgreSQL of its own ("+databaseURLVariable+")")
	f.StringVar(&o.SourceURL, "source-url", os.Getenv(sourceURLVariable), "database with the events, for a file with spec.source.postgres ("+sourceURLVariable+")")
	f.BoolVar(&o.Reset, "reset", false, "first delete the data of its own PostgreSQL")
	f.StringVar(&o.Events, "events", "", "append the events of this file (JSON lines), and follow it as it grows; - for standard input")
	f.StringVar(&version, "postgres-version", "", "npm: use the PostgreSQL from npm even if this machine has one")
	return cmd
}

// onTerminal reports whether somebody reads along who can see colours.
func onTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
