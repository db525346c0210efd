package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/internal/postgrestest"
)

func TestAWrongCallEndsWithTwoAndNamesTheCommandsHelp(t *testing.T) {
	for call, want := range map[string]string{
		"apend order-1 OrderPlaced": "Error: \"apend\" is no command of sluice: did you mean append?\nSee 'sluice --help'.\n",
		"nothing like it":           "Error: \"nothing\" is no command of sluice\nSee 'sluice --help'.\n",
		"import axn":                "Error: \"axn\" is no command of sluice import: did you mean axon?\nSee 'sluice import --help'.\n",
		"source prepar -f x":        "Error: unknown shorthand flag: 'f' in -f\nSee 'sluice source --help'.\n",
		"append order-1":            "Error: expected STREAM TYPE [DATA], got 1 arguments: put quotes around DATA\nSee 'sluice append --help'.\n",
		"append order-1 T --fil x":  "Error: unknown flag: --fil\nSee 'sluice append --help'.\n",
		"migrate now":               "Error: unknown command \"now\" for \"sluice migrate\"\nSee 'sluice migrate --help'.\n",
		"append order-1 \xc4":       "Error: \"\\xc4\" is no UTF-8: use a terminal with UTF-8, or --file\nSee 'sluice append --help'.\n",
		"one two three":             "Error: \"one\" is no command of sluice\nSee 'sluice --help'.\n",
	} {
		var stderr bytes.Buffer
		if code := run(context.Background(), sluice(), strings.Fields(call), &stderr); code != 2 || stderr.String() != want {
			t.Errorf("%s: exit code %d\n%s\nwant\n%s", call, code, stderr.String(), want)
		}
	}
	for call, want := range map[string]int{"": 0, "import": 0, "--help": 0, "help append": 0, "completion bash": 0, "__complete app": 0, "fails": 1} {
		if code := run(context.Background(), sluice(), strings.Fields(call), io.Discard); code != want {
			t.Errorf("%q: exit code %d, want %d", call, code, want)
		}
	}
}

// sluice is like the binary's root.
func sluice() *cobra.Command {
	root := &cobra.Command{Use: "sluice", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(Append(), Migrate(), Import(), Source(),
		&cobra.Command{Use: "fails", RunE: func(*cobra.Command, []string) error { return errors.New("it fails") }})
	root.SetOut(io.Discard)
	return root
}

func TestADatabaseOfAnotherEncodingIsRefused(t *testing.T) {
	ctx := context.Background()
	config, err := pgx.ParseConfig(postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(ctx) })
	for encoding, name := range map[string]string{"LATIN1": "latin_" + config.Database, "SQL_ASCII": "ascii_" + config.Database} {
		database := pgx.Identifier{name}.Sanitize()
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+database+" ENCODING '"+encoding+"' LOCALE 'C' TEMPLATE template0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := conn.Exec(ctx, "DROP DATABASE "+database+" WITH (FORCE)"); err != nil {
				t.Error(err)
			}
		})
		url := strings.Replace(config.ConnString(), "/"+config.Database, "/"+name, 1)
		for _, call := range []string{"append order-1 OrderPlaced", "migrate"} {
			var stderr bytes.Buffer
			code := run(ctx, sluice(), append(strings.Fields(call), "--database-url", url), &stderr)
			if want := "the database has the encoding " + encoding + ", and Sluice needs UTF8: make one with CREATE DATABASE"; code != 1 || !strings.Contains(stderr.String(), want) {
				t.Errorf("%s: exit code %d\n%s", call, code, stderr.String())
			}
		}
	}
}
