package postgres

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// take takes the row at hand.
func (p *pageBuilder) take(rows pgx.Rows) error {
	if !p.looked {
		id := rows.FieldDescriptions()[4]
		p.looked, p.binary, p.uuid = true, inBinary(rows), id.DataTypeOID == pgtype.UUIDOID && id.Format == pgx.BinaryFormatCode
	}
	if p.binary && p.decode(rows.RawValues()) {
		return nil
	}
	columns := []any{&p.position, &p.txid, &p.stream, &p.version, &p.id, &p.kind, &p.data, &p.metadata, &p.recordedAt, &p.before}
	return rows.Scan(columns[:len(rows.FieldDescriptions())]...)
}

// inBinary reports whether the columns that are no texts come in the binary format; behind some poolers they do not.
func inBinary(rows pgx.Rows) bool {
	columns := rows.FieldDescriptions()
	for _, i := range []int{0, 1, 3, 8, 9} {
		if i < len(columns) && columns[i].Format != pgx.BinaryFormatCode {
			return false
		}
	}
	return true
}

// y2k is where the server's time begins.
var y2k = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()

// decode reads a row in the binary format, which takes a fraction of the time that Scan does. It reports false, and Scan has to say
// what is wrong, where a column that is no text is not a number of eight bytes, or a time is infinite.
func (p *pageBuilder) decode(row [][]byte) bool {
	if len(row[0]) != 8 || len(row[1]) != 8 || len(row[3]) != 8 || len(row[8]) != 8 {
		return false
	}
	if len(row) > 9 {
		if len(row[9]) != 8 {
			return false
		}
		p.before = int64(binary.BigEndian.Uint64(row[9]))
	}
	micros := int64(binary.BigEndian.Uint64(row[8]))
	if micros == math.MaxInt64 || micros == math.MinInt64 {
		return false
	}
	p.position = int64(binary.BigEndian.Uint64(row[0]))
	p.txid = binary.BigEndian.Uint64(row[1])
	p.stream = row[2]
	p.version = int64(binary.BigEndian.Uint64(row[3]))
	p.id, p.kind, p.data, p.metadata = row[4], row[5], row[6], row[7]
	if p.uuid && len(p.id) == 16 {
		p.id = p.hyphened(p.id)
	}
	p.recordedAt = time.Unix(y2k+micros/1_000_000, micros%1_000_000*1000)
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
