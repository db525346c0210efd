package stores

import (
	"time"
)

const (
	// paceWindow is what a pace is taken over: splits and merges get slower the more segments there
	// are.
	paceWindow = 30 * time.Second
	// paceLeast is the least time that a pace is taken over.
	paceLeast = 2 * time.Second
)

// Pace is how fast a group's segments are split or merged.
type Pace struct {
	PerMinute int       // 0 while it is not known
	At        time.Time // when it was taken
}

// paces remembers how many segments groups had, of those that are being split or merged. Of the
// loop alone.
type paces map[string][]shape

// shape is how many splits and merges a group lacks at a time.
type shape struct {
	at     time.Time
	wanted int
	left   int
}

// note adds paces to what a look has found of groups.
func (p *paces) note(groups []Group, now time.Time) {
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
		next[group.Name] = append(next[group.Name], shape{now, group.Wanted, left})
		group.Pace = paceOf(next[group.Name])
	}
	*p = next
}

// paceOf is the pace over some shapes, the oldest first.
func paceOf(shapes []shape) Pace {
	first, last := shapes[0], shapes[len(shapes)-1]
	took, done := last.at.Sub(first.at), first.left-last.left
	if took < paceLeast || done <= 0 {
		return Pace{}
	}
	return Pace{PerMinute: max(int(float64(done)*float64(time.Minute)/float64(took)), 1), At: last.at}
}
