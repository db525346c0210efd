package sqlscan_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/internal/sqlscan"
)

func TestCommandsAreFound(t *testing.T) {
	for text, want := range map[string][][]string{
		"":                                 nil,
		" ;; -- nothing":                   nil,
		"insert into t values (1)":         {{"INSERT", "INTO", "T"}},
		"SELECT 1; SELECT 2":               {{"SELECT", ""}, {"SELECT", ""}},
		"SELECT ';COMMIT'; VACUUM":         {{"SELECT", ""}, {"VACUUM"}},
		`SELECT ";COMMIT", "a"";COMMIT"`:   {{"SELECT", "", ""}},
		"SELECT $$;COMMIT$$":               {{"SELECT", ""}},
		"SELECT $a$;COMMIT$b$;$$;$a$":      {{"SELECT", ""}},
		"SELECT a$b$;COMMIT":               {{"SELECT", "A$B$"}, {"COMMIT"}},
		"SELECT $1;COMMIT":                 {{"SELECT", "", ""}, {"COMMIT"}},
		`SELECT '\';COMMIT`:                {{"SELECT", ""}, {"COMMIT"}},
		`SELECT e'\';COMMIT'`:              {{"SELECT", ""}},
		"SELECT E'a'\n '\\';COMMIT'":       {{"SELECT", ""}},
		"SELECT E'a'--x\n '\\';COMMIT'":    {{"SELECT", ""}},
		"SELECT E'a'/*\n*/ '\\';COMMIT":    {{"SELECT", "", ""}, {"COMMIT"}},
		"SELECT E'a' '\\';COMMIT":          {{"SELECT", "", ""}, {"COMMIT"}},
		"SELECT name'\\';COMMIT":           {{"SELECT", "NAME", ""}, {"COMMIT"}},
		"-- ;x\n/* ; /* ; */ ;x */ COMMIT": {{"COMMIT"}},
		"-- a\rCOMMIT":                     {{"COMMIT"}},
		"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 case; SELECT CASE WHEN true THEN 1 END; END; COMMIT": {
			{"CREATE", "FUNCTION", "F"}, {"SELECT", "", "CASE"}, {"SELECT", "CASE", "WHEN"}, {"COMMIT"}},
		"CREATE OR REPLACE PROCEDURE begin() BEGIN ATOMIC END; END": {{"CREATE", "OR", "REPLACE"}, {"END"}},
		"CREATE FUNCTION begin() RETURNS int AS 'x'; END":           {{"CREATE", "FUNCTION", "BEGIN"}, {"END"}},
	} {
		if diff := cmp.Diff(want, sqlscan.Commands(text, false)); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	if got := sqlscan.Commands(`SELECT '\';COMMIT'`, true); len(got) != 1 {
		t.Errorf("a string with escapes: %v", got)
	}
}

func TestTransactionControlIsFound(t *testing.T) {
	for text, want := range map[string]string{
		"COMMIT":                              "COMMIT",
		"commit and chain":                    "COMMIT",
		"COMMIT PREPARED 'x'":                 "COMMIT",
		"/* so */ End Transaction":            "END",
		"abort":                               "ABORT",
		"SELECT 1; ROLLBACK; BEGIN":           "ROLLBACK",
		"rollback work":                       "ROLLBACK",
		"begin":                               "BEGIN",
		"START TRANSACTION":                   "START TRANSACTION",
		"PREPARE TRANSACTION 'x'":             "PREPARE TRANSACTION",
		"PREPARE x AS SELECT 1":               "",
		"SAVEPOINT a; RELEASE a":              "",
		"ROLLBACK TO a":                       "",
		"rollback /**/ transaction to a":      "",
		"ROLLBACK WORK TO SAVEPOINT a":        "",
		"DO $$ BEGIN PERFORM 1; END $$":       "",
		"SELECT commit FROM t WHERE begin":    "",
		"INSERT INTO t VALUES ('; COMMIT; ')": "",
	} {
		if got := sqlscan.TransactionControl(text, false); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// fragments are what a scanner can stumble over.
var fragments = []string{"'", "'", `"`, "\n", "\r", " ", "--", "/*", "*/", `\`, "E'", "e'", "U&'", "n'", "B'", "$$", "$a$", "$", "a", "1", ";", ";", "SELECT ", "SELECT 1", "''",
	"COMMIT", ";COMMIT;", "ROLLBACK", "END", " AS x", "x", ",", "(", ")", "é", "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC ", "SELECT 1 case;", "CASE WHEN true THEN 1 END"}

// TestNoTransactionEndsUnseen has a server run any texts in a transaction: where it is over
// afterwards, that was seen, and where the server has run all of a text and it is not, nothing was.
func TestNoTransactionEndsUnseen(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	ended, kept := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		backslashes := rapid.Bool().Draw(t, "backslashes")
		text := "SELECT 1" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(fragments), 0, 12).Draw(t, "text"), "")
		if rapid.IntRange(0, 3).Draw(t, "behind a whole statement") == 0 { // most texts are none that a server runs
			text = "SELECT 1;" + rapid.SampledFrom([]string{"COMMIT", "ROLLBACK", "END", "ABORT"}).Draw(t, "command") + ";" + strings.TrimPrefix(text, "SELECT 1")
		}
		begin := "SET standard_conforming_strings = on; BEGIN"
		if backslashes {
			begin = "SET standard_conforming_strings = off; BEGIN"
		}
		if _, err := conn.PgConn().Exec(ctx, begin).ReadAll(); err != nil {
			t.Fatal(err)
		}
		_, failed := conn.PgConn().Exec(ctx, text).ReadAll()
		status := conn.PgConn().TxStatus()
		if _, err := conn.PgConn().Exec(ctx, "ROLLBACK; DROP FUNCTION IF EXISTS f()").ReadAll(); err != nil {
			t.Fatal(err)
		}
		switch command := sqlscan.TransactionControl(text, backslashes); {
		case status == 'I' && command == "":
			t.Fatalf("%q ends its transaction, which is not seen", text)
		case status == 'T' && failed == nil && command != "":
			t.Fatalf("%q leaves its transaction open; what is seen is %s", text, command)
		case status == 'I':
			ended++
		case failed == nil:
			kept++
		}
	})
	if ended == 0 || kept == 0 {
		t.Errorf("vacuous: %d texts ended their transaction, %d did not", ended, kept)
	}
}

func FuzzCommands(f *testing.F) {
	for _, fragment := range fragments {
		f.Add(fragment, false)
	}
	f.Fuzz(func(t *testing.T, text string, backslashes bool) {
		for _, words := range sqlscan.Commands(text, backslashes) {
			if len(words) == 0 || len(words) > 3 {
				t.Errorf("%q: a command of the words %q", text, words)
			}
		}
	})
}
