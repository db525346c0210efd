package stores

import (
	"time"
)

const (
	// paceWindow bounds the time over which a pace is measured. Splits and merges get slower the
	// more segments there are, so older measurements would mislead.
	paceWindow = 30 * time.Second
	// paceLeast is the shortest time over which a pace is measured.
	paceLeast = 2 * time.Second
)

// Pace is how fast a group's segments are split or merged.
type Pace struct {
	PerMinute int       // 0 while it is not known
	At        time.Time // when it was measured
}

// paces has the steps that were left at the last looks, by group, of the groups whose segments are
// being split or merged. Only the processor's loop uses it.
type paces map[string][]stepsLeft

// stepsLeft is how many splits or merges a group had left at a time.
type stepsLeft struct {
	at     time.Time
	wanted int
	left   int
}

// add takes what a look has found, and sets the groups' paces.
func (p *paces) add(groups []Group, now time.Time) {
	next := paces{}
	for i := range groups {
		group := &groups[i]
		left := group.StepsLeft()
		if left == 0 {
			continue
		}
		for _, before := range (*p)[group.Name] {
			if before.wanted == group.Wanted && now.Sub(before.at) <= paceWindow {
				next[group.Name] = append(next[group.Name], before)
			}
		}
		next[group.Name] = append(next[group.Name], stepsLeft{now, group.Wanted, left})
		group.Pace = paceOf(next[group.Name])
	}
	*p = next
}

// paceOf is the pace over some measurements, the oldest first.
func paceOf(all []stepsLeft) Pace {
	first, last := all[0], all[len(all)-1]
	took, done := last.at.Sub(first.at), first.left-last.left
	if took < paceLeast || done <= 0 {
		return Pace{}
	}
	return Pace{PerMinute: max(int(float64(done)*float64(time.Minute)/float64(took)), 1), At: last.at}
}
