package command

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func TestRebase(t *testing.T) {
	url := postgrestest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	run := func(args ...string) (string, error) {
		cmd := Rebase()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append(args, "--database-url", url))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	if _, err := run(); err == nil || !strings.Contains(err.Error(), "sluice migrate") {
		t.Errorf("without tables: %v", err)
	}
	if _, err := postgres.Migrate(t.Context(), conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err != nil || out != "the store belongs to this server: there is nothing to rebase\n" {
		t.Errorf("at home: %q, %v", out, err)
	}
	_, err = conn.Exec(t.Context(), `UPDATE sluice.meta SET system_identifier = 1;
		INSERT INTO sluice.event (txid, stream_id, version, type, data) SELECT (n + 900000)::text::xid8, 's', n, 'T', '{}' FROM generate_series(1, 3) n;
		INSERT INTO sluice.processing_group (name, processor, segments, sequencing, hash) VALUES ('g', 'p', 1, 'Stream', 'pg1');
		INSERT INTO sluice.token (group_name, segment, mask, position, snapshot, epoch, version) VALUES ('g', 0, 0, 3, '900002:900004:900002', 1, 1)`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run("-f", filepath.Join(t.TempDir(), "none")); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a manifest that is not there: %v", err)
	}
	want := "\"sluice\".event rewritten; transactions that some group had passed and not handled: 1\nthe store belongs to this server now, with 1 different tokens and boundaries\n"
	if out, err := run(); err != nil || out != want {
		t.Errorf("%q, %v", out, err)
	}
	var txids, snapshot string
	if err := conn.QueryRow(t.Context(), "SELECT string_agg(txid::text, ' ' ORDER BY position), (SELECT snapshot FROM sluice.token) FROM sluice.event").Scan(&txids, &snapshot); err != nil {
		t.Fatal(err)
	}
	if txids != "3 4 3" || snapshot != "4:4:" {
		t.Errorf("events carry %s, the token has seen %s", txids, snapshot)
	}
}
