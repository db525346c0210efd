package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/tokenstore"
)

// stillAfter is how long a replay may stand before nobody can say when it will be complete.
const stillAfter = 30 * time.Second

// paces remembers of each Replay whose row runs since when it has had done what it has.
type paces struct {
	mu    sync.Mutex
	known map[types.UID]pace
}

type pace struct {
	done  int64
	since time.Time // when done was first seen
	seen  time.Time
}

// of notes what a row has done, and returns since when it has had that.
func (p *paces) of(uid types.UID, row *tokenstore.Replay, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if row == nil || row.Phase != tokenstore.ReplayRunning {
		delete(p.known, uid)
		return now
	}
	if p.known == nil {
		p.known = map[types.UID]pace{}
	}
	for other, last := range p.known {
		if now.Sub(last.seen) > keptWrites { // of a Replay that is gone
			delete(p.known, other)
		}
	}
	last, known := p.known[uid]
	if !known || last.done != row.Done {
		last = pace{done: row.Done, since: now}
	}
	last.seen = now
	p.known[uid] = last
	return last.since
}
