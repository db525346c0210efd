package postgres_test

import (
	"context"
	"encoding/json"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// hostile are values of the variables that pgx reads, each of which would make connections fail or
// be others. A variable that is not here has a value that means nothing.
var hostile = map[string]string{
	"PGHOST": "nowhere.invalid", "PGPORT": "1", "PGSSLMODE": "verify-full", "PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "standby",
	"PGTZ": "Asia/Tokyo", "PGOPTIONS": "-c work_mem=1234kB", "PGMINPROTOCOLVERSION": "3.2", "PGMAXPROTOCOLVERSION": "2.0",
	"PGCHANNELBINDING": "require", "PGREQUIREAUTH": "scram-sha-256", "PGSSLCERTMODE": "require", "PGSSLSNI": "0",
}

// TestNoEnvironmentVariableHasAnEffectOnConnections connects in processes that have the variables,
// one by one and all together.
func TestNoEnvironmentVariableHasAnEffectOnConnections(t *testing.T) {
	if url := os.Getenv("SLUICE_TEST_CONNECT_TO"); url != "" {
		describeConnections(t, url)
		return
	}
	url := postgrestest.New(t)
	passfile := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(passfile, []byte("*:*:*:*:other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, name := range variablesOfPgx(t) {
		value := hostile[name]
		switch {
		case name == "PGPASSFILE":
			value = passfile
		case value == "":
			value = "other"
		}
		all = append(all, name+"="+value)
	}
	want := connectIn(t, url)
	t.Run("all", func(t *testing.T) {
		if diff := cmp.Diff(want, connectIn(t, url, all...)); diff != "" {
			t.Error(diff)
		}
	})
	for _, variable := range all {
		t.Run(variable, func(t *testing.T) {
			if diff := cmp.Diff(want, connectIn(t, url, variable)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// variablesOfPgx finds in pgx's source which variables it reads.
func variablesOfPgx(t *testing.T) []string {
	t.Helper()
	dir, err := osexec.Command("go", "list", "-f", "{{.Dir}}", "github.com/jackc/pgx/v5/pgconn").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, found := range regexp.MustCompile(`"(PG[A-Z_]+)":`).FindAllSubmatch(source, -1) {
		names = append(names, string(found[1]))
	}
	for name := range hostile {
		if !slices.Contains(names, name) {
			t.Fatalf("pgx does not read %s: it reads %v", name, names)
		}
	}
	return names
}

// connectIn returns what describeConnections tells in a process that has variables.
func connectIn(t *testing.T, url string, variables ...string) (told map[string]any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "connections.json")
	cmd := osexec.Command(os.Args[0], "-test.run=^TestNoEnvironmentVariableHasAnEffectOnConnections$")
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PG") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, append(variables, "SLUICE_TEST_CONNECT_TO="+url, "SLUICE_TEST_TELL_IN="+file)...)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &told); err != nil {
		t.Fatal(err)
	}
	return told
}

// describeConnections tells how a pool and a connection of its own connect.
func describeConnections(t *testing.T, url string) {
	ctx := context.Background()
	own, err := postgres.Connect(ctx, options(t, url))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close(ctx)
	pool, err := postgres.Open(options(t, url))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	pooled, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Release()
	told := map[string]any{}
	for kind, conn := range map[string]*pgx.Conn{"own": own, "pooled": pooled.Conn()} {
		session, err := conn.Query(ctx, `SELECT current_user, current_database(), inet_server_port(), current_setting('TimeZone') zone, current_setting('work_mem') work_mem, current_setting('application_name') application`)
		if err != nil {
			t.Fatal(err)
		}
		row, err := pgx.CollectExactlyOneRow(session, pgx.RowToMap)
		if err != nil {
			t.Fatal(err)
		}
		c := conn.Config()
		told[kind] = map[string]any{"session": row, "settings": c.RuntimeParams, "with": []any{c.Host, c.Port, c.User, c.Password, c.Database, c.TLSConfig != nil, len(c.Fallbacks),
			c.ConnectTimeout, c.ChannelBinding, c.RequireAuth, c.MinProtocolVersion, c.MaxProtocolVersion, c.SSLCertMode, c.SSLNegotiation, c.KerberosSpn, c.KerberosSrvName, c.ValidateConnect != nil}}
	}
	data, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("SLUICE_TEST_TELL_IN"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}
