package segment_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/segment"
)

func TestPG1EqualsHashtextextendedOfAServer(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
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
