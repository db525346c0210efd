package feed

// budget counts the bytes that a feed keeps in memory: the events of each page and their texts once, however many deliveries point
// into them, until the last of these has been taken; what is a delivery's own, until it has been taken; and for each read that runs two pages, as
// a source ends a page by its texts, and the events take memory beside these. It is under the feed's lock.
type budget struct {
	total int64 // not to be exceeded, but by what must be read whatever there is
	page  int64 // the largest page, but for those of one event
	used  int64
}

// The shares of a budget.
const (
	liveShare  = 4  // a quarter is there for segments near the tail alone, so that a backlog cannot take everything
	aheadShare = 4  // a quarter may wait for one segment
	roomShare  = 8  // below an eighth a read begins for a segment
	pageShare  = 16 // a page takes a sixteenth at most
	smallShare = 4  // a page that must be read whatever there is takes a quarter of a page
)

// allows reports whether another page may be read, for segments near the tail or for others.
func (b *budget) allows(live bool) bool {
	limit := b.total
	if !live {
		limit -= b.total / liveShare
	}
	return b.used+2*b.page <= limit
}

func (b *budget) begin() { b.used += 2 * b.page }
func (b *budget) end()   { b.used -= 2 * b.page }

// keep adds a delivery.
func (b *budget) keep(d *Delivery) {
	b.used += d.own
	for _, s := range d.shares {
		if s.sharers++; s.sharers == 1 {
			b.used += s.bytes
		}
	}
}

// release takes a delivery away.
func (b *budget) release(d *Delivery) {
	b.used -= d.own
	for _, s := range d.shares {
		if s.sharers--; s.sharers == 0 {
			b.used -= s.bytes
		}
	}
}

// Memory returns how many bytes the feed keeps, pages of reads that run included, and its budget. More are kept than that only where a
// segment with nothing waiting has to be read for nevertheless.
func (f *Feed) Memory() (used, limit int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.budget.used, f.budget.total
}
