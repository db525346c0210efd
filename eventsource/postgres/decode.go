package postgres

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sluice-project/sluice/eventsource"
)

// take takes the row at hand.
func (p *pageBuilder) take(rows pgx.Rows) error {
	if !p.looked {
		p.look(rows.FieldDescriptions())
	}
	if p.binary && p.decode(rows.RawValues()) {
		return nil
	}
	var recorded pgtype.Timestamptz
	p.timeless = false
	columns := []any{&p.position, &p.txid, &p.stream, &p.kind, &recorded}
	if !p.bare {
		columns = append(columns, &p.version, &p.id, &p.data, &p.metadata)
	}
	if err := rows.Scan(append(columns, &p.before)[:len(rows.FieldDescriptions())]...); err != nil {
		return err
	}
	p.takeTime(recorded)
	return nil
}

func (p *pageBuilder) takeTime(recorded pgtype.Timestamptz) {
	if p.recordedAt, p.timeless = recorded.Time, !recorded.Valid; recorded.InfinityModifier != pgtype.Finite {
		p.recordedAt = endOfTime(recorded.InfinityModifier == pgtype.Infinity)
	}
}

func (p *pageBuilder) scanTime(rows pgx.Rows) error {
	var recorded pgtype.Timestamptz
	if err := rows.Scan(&recorded); err != nil {
		return err
	}
	p.takeTime(recorded)
	return nil
}

// endOfTime stands for a time that is infinite.
func endOfTime(future bool) time.Time {
	if future {
		return eventsource.EndOfTime
	}
	return eventsource.BeginningOfTime
}

// look takes note of which columns there are, and whether those that are no texts come in the binary format; behind some poolers they do not.
func (p *pageBuilder) look(columns []pgconn.FieldDescription) {
	inBinary := func(c pgconn.FieldDescription) bool { return c.Format == pgx.BinaryFormatCode }
	p.looked, p.bare = true, len(columns) < bareColumns+contentColumns
	p.binary = inBinary(columns[0]) && inBinary(columns[1]) && inBinary(columns[4])
	rest := columns[bareColumns:]
	if !p.bare {
		p.binary = p.binary && inBinary(rest[0])
		p.uuid = rest[1].DataTypeOID == pgtype.UUIDOID && inBinary(rest[1])
		rest = rest[contentColumns:]
	}
	for _, before := range rest {
		p.binary = p.binary && inBinary(before)
	}
}

// How many columns a page has at least, and how many more where it has the events' version, id, data and metadata. There may be one more, the last one.
const (
	bareColumns    = 5
	contentColumns = 4
)

// y2k is where the server's time begins.
var y2k = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()

// decode reads a row in the binary format, which takes a fraction of the time that Scan does. It reports false, and Scan has to say
// what is wrong, where a column that is no text is not a number of eight bytes.
func (p *pageBuilder) decode(row [][]byte) bool {
	if len(row[0]) != 8 || len(row[1]) != 8 || len(row[4]) != 8 { // also where the time is null
		return false
	}
	p.timeless = false
	micros := int64(binary.BigEndian.Uint64(row[4]))
	p.position = int64(binary.BigEndian.Uint64(row[0]))
	p.txid = binary.BigEndian.Uint64(row[1])
	p.stream, p.kind = row[2], row[3]
	if p.recordedAt = time.Unix(y2k+micros/1_000_000, micros%1_000_000*1000); micros == math.MaxInt64 || micros == math.MinInt64 {
		p.recordedAt = endOfTime(micros > 0)
	}
	row = row[bareColumns:]
	if !p.bare {
		if len(row[0]) != 8 {
			return false
		}
		p.version = int64(binary.BigEndian.Uint64(row[0]))
		p.id, p.data, p.metadata = row[1], row[2], row[3]
		if p.uuid && len(p.id) == 16 {
			p.id = p.hyphened(p.id)
		}
		row = row[contentColumns:]
	}
	if len(row) == 0 {
		return true
	}
	if len(row[0]) != 8 {
		return false
	}
	p.before = int64(binary.BigEndian.Uint64(row[0]))
	return true
}

// hyphened writes a uuid as the server does. It is there until the next one.
func (p *pageBuilder) hyphened(id []byte) []byte {
	text := p.text[:]
	from, at := 0, 0
	for _, bytes := range [...]int{4, 2, 2, 2, 6} {
		if at > 0 {
			text[at] = '-'
			at++
		}
		hex.Encode(text[at:], id[from:from+bytes])
		from, at = from+bytes, at+2*bytes
	}
	return text
}
