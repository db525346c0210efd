package segment_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/segment"
)

const postgresBin = "/usr/lib/postgresql/15/bin"

func TestPG1EqualsHashtextextendedOfAServer(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, startServer(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)

	keys := randomKeys(20_000, 300)
	rows, err := conn.Query(ctx, `
		SELECT hashtextextended(key COLLATE "C", 0) & 4294967295, octet_length(key)
		FROM unnest($1::text[]) WITH ORDINALITY AS u (key, n) ORDER BY n`, keys)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	compared := 0
	for ; rows.Next(); compared++ {
		var want int64
		var length int
		if err := rows.Scan(&want, &length); err != nil {
			t.Fatal(err)
		}
		key := keys[compared]
		if length != len(key) || int64(segment.PG1(key)) != want {
			t.Fatalf("PG1(%q) = %d, the server says %d for %d bytes", key, segment.PG1(key), want, length)
		}
	}
	if rows.Err() != nil || compared != len(keys) {
		t.Fatalf("compared %d of %d keys, error %v", compared, len(keys), rows.Err())
	}
}

// randomKeys returns keys of every length from 0 to maxLength bytes, one half ASCII, the other from all of Unicode.
func randomKeys(n, maxLength int) []string {
	random := rand.New(rand.NewPCG(1, 2))
	keys := make([]string, n)
	for i := range keys {
		length := i % (maxLength + 1)
		key := make([]byte, 0, length)
		for len(key) < length {
			r := rune(1 + random.IntN(0x7f))
			if wide := rune(random.IntN(0x10000 << random.IntN(2))); i%2 == 1 && wide > 0 && (wide < 0xd800 || wide > 0xdfff) && length-len(key) >= 4 {
				r = wide
			}
			key = append(key, string(r)...)
		}
		keys[i] = string(key)
	}
	return keys
}

// startServer starts a server of this test's own, reached by a socket only, and returns its URL.
func startServer(t *testing.T) string {
	dir, err := os.MkdirTemp("", "sluice-segment-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "data")
	attr := unprivileged(t, dir)
	run := func(name string, args ...string) error {
		cmd := exec.Command(filepath.Join(postgresBin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		log, err := os.Create(filepath.Join(dir, name+".log")) // not a pipe: the server would hold it open
		if err != nil {
			return err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			out, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	}
	if err := run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("-k %s -c listen_addresses='' -c fsync=off", dir)
	if err := run("pg_ctl", "start", "-w", "-D", data, "-o", options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run("pg_ctl", "stop", "-w", "-D", data, "-m", "immediate"); err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("postgres:///postgres?host=%s&user=postgres", dir)
}

// unprivileged makes root run the server as the user postgres, which then owns dir: PostgreSQL refuses root.
func unprivileged(t *testing.T, dir string) *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(account.Uid, 10, 32)
	gid, _ := strconv.ParseUint(account.Gid, 10, 32)
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}
