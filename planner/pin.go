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

// pin takes note of segments whose owner has died without releasing them, also where others were quicker to take over.
func (p *Planner) pin(view tokenstore.View, tokens []tokenstore.Token) {
	dead := map[int64]bool{}
	for _, w := range view.Workers {
		dead[w.Incarnation] = !w.Alive
	}
	if p.pins == nil {
		p.pins, p.owners = map[tokenstore.Key]pin{}, map[tokenstore.Key]int64{}
	}
	now := p.now()
	for _, t := range tokens {
		before := p.owners[t.Key]
		p.owners[t.Key] = t.Owner
		if dead[t.Owner] {
			before = t.Owner
		}
		old, there := p.pins[t.Key]
		if !dead[before] || there && old.owner == before {
			continue
		}
		last := pinnedFor
		if there && now.Sub(old.until) < pinnedAtMost {
			last = min(old.last*2, pinnedAtMost)
		}
		p.pins[t.Key] = pin{owner: before, until: now.Add(last), last: last}
	}
	for key, old := range p.pins {
		if now.Sub(old.until) > pinnedAtMost {
			delete(p.pins, key)
		}
	}
}

func (p *Planner) pinned(key tokenstore.Key) bool { return p.now().Before(p.pins[key].until) }
