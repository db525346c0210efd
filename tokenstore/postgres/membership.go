package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// Membership is a tokenstore.Membership in a schema of a PostgreSQL database.
type Membership struct {
	// Options of the sessions' connections. A member's other connections have its name.
	Options Options
	Schema  string
	// Channels are those on which others than the store announce, and what sessions receive by them.
	Channels map[string]tokenstore.SignalKind
	// Prepare, if it is set, is called with the first session's connection, before the schema is
	// checked.
	Prepare func(ctx context.Context, conn *pgx.Conn) error
}

var _ tokenstore.Membership = Membership{}

// Join implements tokenstore.Membership. The member is a *Member.
func (m Membership) Join(ctx context.Context) (tokenstore.Member, tokenstore.Session, error) {
	member, session, err := m.Open(ctx)
	if err != nil {
		return nil, nil, err // not a nil *Member, which is no nil Member
	}
	return member, session, nil
}

// Open is Join for callers that open connections for the member.
func (m Membership) Open(ctx context.Context) (*Member, tokenstore.Session, error) {
	session, err := m.openSession(ctx)
	if err != nil {
		return nil, nil, err
	}
	member, err := m.enter(ctx, session.Session)
	if err != nil {
		return nil, nil, errors.Join(err, session.Close())
	}
	return member, session, nil
}

func (m Membership) enter(ctx context.Context, session *Session) (*Member, error) {
	if m.Prepare != nil {
		if err := m.Prepare(ctx, session.Conn()); err != nil {
			return nil, err
		}
	}
	meta, err := Check(ctx, session.Conn(), m.Schema)
	if err != nil {
		return nil, err
	}
	n, err := session.Incarnation(ctx, m.Schema)
	if err != nil {
		return nil, err
	}
	locked, err := session.Lock(ctx, m.Schema, n)
	if err != nil {
		return nil, err
	}
	identity := tokenstore.Identity{Incarnation: n, Nonce: uuid.NewString(), SessionLock: locked}
	return &Member{membership: m, identity: identity, application: ApplicationOf(meta.Home, n, identity.Nonce)}, nil
}

// openSession opens a session that receives the signals of the store, and those of other channels.
func (m Membership) openSession(ctx context.Context) (*memberSession, error) {
	kinds := map[string]tokenstore.SignalKind{Channel(m.Schema): tokenstore.DirectoryChanged, LiveChannel(m.Schema): tokenstore.LiveEvents}
	maps.Copy(kinds, m.Channels)
	session, err := OpenSession(ctx, m.Options, slices.Sorted(maps.Keys(kinds))...)
	if err != nil {
		return nil, err
	}
	return &memberSession{session, kinds}, nil
}

// memberSession is a tokenstore.Session.
type memberSession struct {
	*Session
	kinds map[string]tokenstore.SignalKind // by channel
}

// Next implements tokenstore.Session.
func (s *memberSession) Next(ctx context.Context) (tokenstore.Signal, error) {
	channel, payload, err := s.Wait(ctx)
	if err != nil {
		return tokenstore.Signal{}, err
	}
	signal := tokenstore.Signal{Kind: s.kinds[channel]}
	if signal.Kind == tokenstore.DirectoryChanged {
		signal.Processor = payload
	}
	return signal, nil
}

// Member is a tokenstore.Member. Evict knows its connections by their names, but for the session.
type Member struct {
	membership  Membership
	identity    tokenstore.Identity
	application string
}

var (
	_ tokenstore.Member      = (*Member)(nil)
	_ tokenstore.PeerWatcher = (*Member)(nil)
	_ tokenstore.Limiter     = (*Member)(nil)
)

// Identity implements tokenstore.Member.
func (m *Member) Identity() tokenstore.Identity { return m.identity }

// Options returns those of the member's connections, but for its session.
func (m *Member) Options() Options {
	o := m.membership.Options
	o.Application = m.application
	return o
}

// Waits between two tries to take the session lock back.
const (
	firstLockWait = 2 * time.Millisecond
	lastLockWait  = 50 * time.Millisecond
)

// Rejoin implements tokenstore.Member. The server may take a moment to let go of the lock of the
// connection that was lost.
func (m *Member) Rejoin(ctx context.Context) (tokenstore.Session, error) {
	session, err := m.membership.openSession(ctx)
	if err != nil {
		return nil, err
	}
	for wait := firstLockWait; m.identity.SessionLock; wait = min(2*wait, lastLockWait) {
		locked, err := session.Lock(ctx, m.membership.Schema, m.identity.Incarnation)
		if err != nil {
			return nil, errors.Join(err, session.Close()) // it is of no use without the lock
		}
		if locked {
			break
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), session.Close())
		case <-time.After(wait):
		}
	}
	return session, nil
}

// WatchPeers implements tokenstore.PeerWatcher.
func (m *Member) WatchPeers(ctx context.Context, processor string) (tokenstore.PeerWatch, error) {
	watch, err := OpenPeerWatch(ctx, m.Options(), m.membership.Schema, processor)
	if err != nil {
		return nil, err // not a nil *PeerWatch, which is no nil PeerWatch
	}
	return watch, nil
}

// Permits implements tokenstore.Limiter. Behind a pooler no lock is anybody's.
func (m *Member) Permits(limit int) tokenstore.Permits {
	if limit < 1 || !m.identity.SessionLock {
		return nil
	}
	return NewPermits(m.Options(), m.membership.Schema, limit)
}
