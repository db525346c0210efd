package worker

import (
	"time"

	"github.com/sluice-project/sluice/definition"
)

// settings are the live ones, as they came last.
type settings struct {
	known bool // the directory has given them
	live  definition.Live
}

func (s settings) group(name string) (definition.LiveGroup, bool) {
	for _, g := range s.live.Groups {
		if g.Name == name {
			return g, true
		}
	}
	return definition.LiveGroup{}, false
}

// paused reports whether no batch of a group may begin. A group that the settings do not know (yet) is paused.
func (s settings) paused(name string) bool {
	g, there := s.group(name)
	return !there || s.live.DesiredState == definition.Paused || g.DesiredState == definition.Paused
}

func (s settings) maxBatchSize(name string) int {
	g, _ := s.group(name)
	return max(int(g.MaxBatchSize), 1)
}

func (s settings) backoff(name string) (initial, longest time.Duration) {
	g, _ := s.group(name)
	return max(g.OnError.Backoff.Initial.Value(), 10*time.Millisecond), max(g.OnError.Backoff.Max.Value(), 10*time.Millisecond)
}
