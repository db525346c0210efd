package planner

import (
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

const (
	// pinnedFor is how long a segment stays where it went when its owner died; it doubles with each further death.
	pinnedFor = 30 * time.Second
	// pinnedAtMost bounds the doubling; after as long without a death it begins anew.
	pinnedAtMost = 10 * time.Minute
)

// pin keeps a segment from being moved for the sake of balance soon after it was taken over.
type pin struct {
	owner int64 // whose death pinned it
	until time.Time
	last  time.Duration
}

func (p *Planner) now() time.Time {
	if p.Now == nil {
		return time.Now()
	}
	return p.Now()
}

// pin takes note of segments whose owner has died without releasing them.
func (p *Planner) pin(view tokenstore.View, tokens []tokenstore.Token) {
	alive := map[int64]bool{0: true}
	for _, w := range view.Workers {
		alive[w.Incarnation] = w.Alive
	}
	if p.pins == nil {
		p.pins = map[tokenstore.Key]pin{}
	}
	now := p.now()
	for _, t := range tokens {
		old, there := p.pins[t.Key]
		if alive[t.Owner] || there && old.owner == t.Owner {
			continue
		}
		last := pinnedFor
		if there && now.Sub(old.until) < pinnedAtMost {
			last = min(old.last*2, pinnedAtMost)
		}
		p.pins[t.Key] = pin{owner: t.Owner, until: now.Add(last), last: last}
	}
	for key, old := range p.pins {
		if now.Sub(old.until) > pinnedAtMost {
			delete(p.pins, key)
		}
	}
}

func (p *Planner) pinned(key tokenstore.Key) bool { return p.now().Before(p.pins[key].until) }
