package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

var (
	// ErrStandby is returned where the server is a standby, whose snapshots do not list running transactions.
	ErrStandby = errors.New("this server is a standby, and events can be read from the primary only: connect to the primary (target_session_attrs=read-write)")
	// ErrStoreChanged is returned where transaction ids in tokens and events are not this server's. Nothing was read.
	ErrStoreChanged = errors.New("the store has changed: transaction ids in tokens and events mean nothing in a database that was restored from a dump, copied or rolled back; " +
		"connect to the server that the tokens were written on, or make the store one of this server by `sluice rebase`")
	// ErrHashMismatch is returned where the server computes another hash of a stream id than this program: segments would be read wrong.
	ErrHashMismatch = errors.New("the server computes other hashes than Sluice: use a little-endian server of PostgreSQL's own hash functions")
)

const checkStatement = `
SELECT pg_is_in_recovery(), m.system_identifier, c.system_identifier, current_setting('server_encoding')
FROM {{schema}}.meta m, pg_control_system() c`

// Check tells whether events can be read from this server: ErrStandby, ErrStoreChanged, ErrHashMismatch or, for a table of the user's, a
// *eventsource.InvalidError say that not, wrapped with what was found. To be called before the first read and after each lost connection.
func (s *Source) Check(ctx context.Context) error {
	var standby bool
	var known, found int64
	var encoding string
	err := s.db.QueryRow(ctx, s.checkSQL).Scan(&standby, &known, &found, &encoding)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("checking the event table: %s.meta has no row: run `sluice migrate`", s.schema)
	case err != nil:
		return fmt.Errorf("checking the event table: %w", err)
	case standby:
		return ErrStandby
	case known != found:
		return fmt.Errorf("%w: system identifier %d instead of %d", ErrStoreChanged, uint64(found), uint64(known))
	}
	if err := checkEncoding(encoding); err != nil {
		return err
	}
	if s.events.table != nil {
		return s.checkTable(ctx) // hashes are Sluice's own: the database filters nothing
	}
	return s.checkHashes(ctx, segment.Vectors())
}

func checkEncoding(encoding string) error {
	if encoding == "UTF8" {
		return nil
	}
	return &eventsource.InvalidError{Problem: fmt.Sprintf("the database's encoding is %s, and Sluice needs UTF8, in which it hashes streams and writes JSON: "+
		"dump the database, and restore it into one that was created with TEMPLATE template0 ENCODING 'UTF8'", encoding)}
}

func (s *Source) checkHashes(ctx context.Context, vectors [8]segment.Vector) error {
	keys := make([]string, len(vectors))
	for i, v := range vectors {
		keys[i] = v.Key
	}
	rows, err := s.db.Query(ctx, `SELECT hashtextextended(k COLLATE "C", 0) & 4294967295 FROM unnest($1::text[]) WITH ORDINALITY AS u (k, n) ORDER BY n`, keys)
	if err != nil {
		return fmt.Errorf("comparing hashes with the server: %w", err)
	}
	hashes, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("comparing hashes with the server: %w", err)
	}
	for i, v := range vectors {
		if hashes[i] != int64(v.Hash) {
			return fmt.Errorf("%w: of %q it computes %d instead of %d", ErrHashMismatch, v.Key, hashes[i], v.Hash)
		}
	}
	return nil
}
