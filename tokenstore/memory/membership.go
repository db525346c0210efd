package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// ErrLost is the error of a session whose connection was lost.
var ErrLost = errors.New("the connection to the store in memory was lost")

// Membership is a tokenstore.Membership.
type Membership struct{ *Database }

var _ tokenstore.Membership = Membership{}

// Membership returns the database's membership.
func (d *Database) Membership() Membership { return Membership{d} }

// Join implements tokenstore.Membership. The member is a *Member, and the session a *Session.
func (m Membership) Join(context.Context) (tokenstore.Member, tokenstore.Session, error) {
	member, session := m.Database.Join()
	return member, session, nil
}

// Join gives an incarnation that nobody has had, and its session.
func (d *Database) Join() (*Member, *Session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	m := &Member{d, d.last}
	return m, m.open()
}

// Member is a tokenstore.Member.
type Member struct {
	database    *Database
	incarnation int64
}

var (
	_ tokenstore.Member      = (*Member)(nil)
	_ tokenstore.PeerWatcher = (*Member)(nil)
	_ tokenstore.Limiter     = (*Member)(nil)
)

// Identity implements tokenstore.Member. No incarnation is given twice, so its number is a nonce.
func (m *Member) Identity() tokenstore.Identity {
	return tokenstore.Identity{Incarnation: m.incarnation, Nonce: fmt.Sprintf("00000000-0000-4000-8000-%012d", m.incarnation), SessionLock: true}
}

// Rejoin implements tokenstore.Member.
func (m *Member) Rejoin(ctx context.Context) (tokenstore.Session, error) {
	for {
		m.database.mu.Lock()
		if m.database.sessions[m.incarnation] == nil {
			defer m.database.mu.Unlock()
			return m.open(), nil
		}
		ended := m.database.coordination.ended
		m.database.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// open opens a session. The caller holds the database's lock.
func (m *Member) open() *Session {
	s := &Session{database: m.database, incarnation: m.incarnation, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	m.database.sessions[m.incarnation] = s
	return s
}

// Session is a tokenstore.Session. It receives signals in the order in which they were announced. A
// signal that is announced several times before it is received is received once.
type Session struct {
	database    *Database
	incarnation int64

	mu      sync.Mutex
	signals []tokenstore.Signal // that were not received yet
	wake    chan struct{}
	closed  chan struct{}
}

var _ tokenstore.Session = (*Session)(nil)

// Next implements tokenstore.Session. ErrLost says that the session has ended.
func (s *Session) Next(ctx context.Context) (tokenstore.Signal, error) {
	for {
		if signal, found := s.take(); found {
			return signal, nil
		}
		select {
		case <-ctx.Done():
			return tokenstore.Signal{}, ctx.Err()
		case <-s.closed:
			return tokenstore.Signal{}, ErrLost
		case <-s.wake:
		}
	}
}

// take takes a signal that was announced.
func (s *Session) take() (tokenstore.Signal, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.signals) == 0 {
		return tokenstore.Signal{}, false
	}
	signal := s.signals[0]
	s.signals = s.signals[1:]
	return signal, true
}

// Receive adds a signal, for this session only.
func (s *Session) Receive(signal tokenstore.Signal) {
	s.mu.Lock()
	if !slices.Contains(s.signals, signal) {
		s.signals = append(s.signals, signal)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close implements tokenstore.Session.
func (s *Session) Close() error {
	s.database.mu.Lock()
	defer s.database.mu.Unlock()
	if s.database.sessions[s.incarnation] != s {
		return nil
	}
	delete(s.database.sessions, s.incarnation)
	close(s.closed)
	close(s.database.coordination.ended)
	s.database.coordination.ended = make(chan struct{})
	return nil
}

// Announce has all sessions receive a signal.
func (d *Database) Announce(signal tokenstore.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.announce(signal)
}

// announce is Announce for those who hold the lock.
func (d *Database) announce(signal tokenstore.Signal) {
	for _, incarnation := range slices.Sorted(maps.Keys(d.sessions)) {
		d.sessions[incarnation].Receive(signal)
	}
}

// changed announces DirectoryChanged of a processor, or of all for the empty name. The caller holds
// the lock.
func (d *Database) changed(processor string) {
	d.announce(tokenstore.Signal{Kind: tokenstore.DirectoryChanged, Processor: processor})
}

// WatchPeers implements tokenstore.PeerWatcher.
func (m *Member) WatchPeers(_ context.Context, processor string) (tokenstore.PeerWatch, error) {
	return peerWatch{m.database, processor}, nil
}

// peerWatch is a tokenstore.PeerWatch.
type peerWatch struct {
	database  *Database
	processor string
}

// watchFor is how long WaitSessionEnd waits.
const watchFor = time.Second

// WaitSessionEnd implements tokenstore.PeerWatch.
func (w peerWatch) WaitSessionEnd(ctx context.Context, incarnation int64) (bool, error) {
	enough := time.NewTimer(watchFor)
	defer enough.Stop()
	for {
		w.database.mu.Lock()
		if w.database.sessions[incarnation] == nil {
			defer w.database.mu.Unlock()
			w.database.changed(w.processor)
			return true, nil
		}
		ended := w.database.coordination.ended
		w.database.mu.Unlock()
		select {
		case <-ended:
		case <-enough.C:
			return false, nil
		case <-ctx.Done():
			return false, nil
		}
	}
}

// Close implements tokenstore.PeerWatch.
func (peerWatch) Close() error { return nil }

// Permits implements tokenstore.Limiter.
func (m *Member) Permits(limit int) tokenstore.Permits {
	if limit < 1 {
		return nil
	}
	return &permits{member: m, limit: limit, number: none}
}

// permits is a tokenstore.Permits.
type permits struct {
	member *Member
	limit  int
	number int // of the permit that is held; under the database's lock
}

// none is the number of no permit.
const none = -1

// Acquire implements tokenstore.Permits.
func (p *permits) Acquire(context.Context) (bool, error) {
	d := p.member.database
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := range p.limit {
		if d.coordination.permits[n] == nil {
			d.coordination.permits[n], p.number = p, n
			return true, nil
		}
	}
	return false, nil
}

// Release implements tokenstore.Permits. ErrLost says that the member was evicted meanwhile.
func (p *permits) Release(context.Context) error {
	if !p.release() {
		return ErrLost
	}
	return nil
}

// Close implements tokenstore.Permits.
func (p *permits) Close() error {
	p.release()
	return nil
}

// release reports whether a permit was held.
func (p *permits) release() bool {
	d := p.member.database
	d.mu.Lock()
	defer d.mu.Unlock()
	n := p.number
	p.number = none
	if d.coordination.permits[n] != p {
		return false
	}
	delete(d.coordination.permits, n)
	return true
}
