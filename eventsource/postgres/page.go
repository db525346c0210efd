package postgres

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// pageBuilder makes events of rows while the server sends them: it has time for that, as the server takes longer for a row than this does.
type pageBuilder struct {
	// the row at hand
	position   int64
	txid       uint64
	version    int64
	recordedAt time.Time
	stream, id pgtype.DriverBytes
	kind       pgtype.DriverBytes
	data       pgtype.DriverBytes
	metadata   pgtype.DriverBytes
	before     int64 // where events wait for those before them in their streams: the position of that one, or 0

	timeless   bool // its time is null
	unreadable *eventsource.UnreadableError
	fields     []field // that are looked at; none where only positions are read

	looked, binary bool // at the columns' formats, from the first row on
	uuid           bool // ids come as sixteen bytes
	bare           bool // there are no versions, ids, data and metadata
	text           [36]byte

	// from the first row
	started  bool
	snapshot Snapshot
	head     int64
	server   string // where gaps are read
	mark     int64  // of the sequence by which gaps are proved; -1 where none was read
	secured  bool   // row level security hides rows
	shape    string // of the table, as it is known; what is read under another one is not used
	origin   origin // where the source is separate

	events []*eventsource.Event
	linked bool   // where gaps are read, which need the links of events
	links  []link // of the events
	bytes  int64  // of their texts
	memory arena
}

// last is the position of the last event, 0 without any.
func (p *pageBuilder) last() int64 {
	if len(p.events) == 0 {
		return 0
	}
	return p.events[len(p.events)-1].Position
}

// add makes an event of the row at hand.
func (p *pageBuilder) add() error {
	if !p.started {
		return p.start()
	}
	if p.position <= p.last() {
		return fmt.Errorf("the server returned position %d after %d", p.position, p.last())
	}
	if !p.snapshot.Visible(p.txid) {
		return &stampError{position: p.position, txid: p.txid}
	}
	if p.fields != nil {
		p.judge()
	}
	e := p.memory.event()
	e.Unreadable, p.unreadable = p.unreadable, nil
	e.Position, e.Version, e.RecordedAt, e.Mark = p.position, p.version, p.recordedAt, p.txid
	text := p.memory.text(p.stream, p.id, p.kind)
	e.StreamID, text = text[:len(p.stream)], text[len(p.stream):]
	e.ID, e.Type = text[:len(p.id)], text[len(p.id):]
	json, n := p.memory.json(p.data, p.metadata), len(p.data)
	e.Data, e.Metadata = json[:n:n], json[n:]
	e.Hash = segment.PG1(e.StreamID)
	p.bytes += int64(e.Size())
	p.events = append(p.events, e)
	if p.linked {
		p.links = append(p.links, link{p.position, p.before})
	}
	return nil
}

// noMark stands for the last number of a sequence that could not be read.
const noMark = "-"

// start takes the row that tells of the page.
func (p *pageBuilder) start() (err error) {
	p.started = true
	if p.position != 0 {
		return errors.New("the server did not return first the row that tells of the page")
	}
	switch string(p.kind) {
	case standby:
		return ErrStandby
	case below:
		return errBelowOne
	case secured:
		p.secured = true
		return nil
	}
	text, from, separate := strings.Cut(string(p.stream), originMark)
	if separate {
		if p.origin, err = parseOriginAndNewest(from); err != nil {
			return err
		}
	}
	about := strings.Split(text, "|")
	if p.head, err = strconv.ParseInt(about[0], 10, 64); err != nil {
		return fmt.Errorf("the server returned no highest position: %w", err)
	}
	if len(about) == 4 {
		if about[1] != p.shape {
			return errAltered
		}
		if about[2] == noMark { // the sequence is being rewritten, or there is none: then it is not asked for
			p.mark = -1
		} else if p.mark, err = strconv.ParseInt(about[2], 10, 64); err != nil {
			return fmt.Errorf("the server returned no last number of the sequence: %w", err)
		}
		p.server = about[3]
	}
	p.snapshot, err = ParseSnapshot(string(p.kind))
	return err
}

// arena gives out memory for the events of a page from a few large pieces, so that an event costs no allocation of its own. Pieces begin
// small, since most pages near the tail hold few events, and quadruple.
type arena struct {
	events []eventsource.Event
	texts  strings.Builder
	bytes  []byte

	pieces [3]int // how large the latest piece of each was
}

// The largest pieces: the largest that Go's allocator has classes of sizes for.
const (
	pieceEvents = 128
	pieceBytes  = 32 << 10
)

// grown is the size of a new piece that is to hold at least so much.
func grown(latest *int, atLeast, first, largest int) int {
	*latest = min(max(*latest*4, first), largest)
	return max(*latest, atLeast)
}

func (a *arena) event() *eventsource.Event {
	if len(a.events) == 0 {
		a.events = make([]eventsource.Event, grown(&a.pieces[0], 1, 2, pieceEvents))
	}
	e := &a.events[0]
	a.events = a.events[1:]
	return e
}

// text returns texts, one after the other.
func (a *arena) text(parts ...[]byte) string {
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	if a.texts.Cap()-a.texts.Len() < size {
		a.texts = strings.Builder{} // what was handed out stays in the one before
		a.texts.Grow(grown(&a.pieces[1], size, 128, pieceBytes))
	}
	from := a.texts.Len()
	for _, part := range parts {
		a.texts.Write(part)
	}
	return a.texts.String()[from:]
}

// json returns documents, one after the other.
func (a *arena) json(first, second []byte) []byte {
	if size := len(first) + len(second); cap(a.bytes)-len(a.bytes) < size {
		a.bytes = make([]byte, 0, grown(&a.pieces[2], size, 512, pieceBytes))
	}
	from := len(a.bytes)
	a.bytes = append(append(a.bytes, first...), second...)
	return a.bytes[from:len(a.bytes):len(a.bytes)]
}
