package worker

import (
	"time"

	"github.com/sluice-project/sluice/definition"
)

// settings are the live ones, as they came last.
type settings struct {
	known       bool // the directory has given them
	live        definition.Live
	timeouts    map[string]time.Duration // by group: read from live once, since every batch asks
	unsupported []string                 // what this version cannot read of them
}

func newSettings(live definition.Live, unsupported []string) settings {
	s := settings{known: true, live: live, timeouts: map[string]time.Duration{}, unsupported: unsupported}
	for _, g := range live.Groups {
		if g.Timeout.Valid() {
			s.timeouts[g.Name] = g.Timeout.Value()
		}
	}
	return s
}

// mostUnsupported is how many unsupported settings are reported.
const mostUnsupported = 5

func unsupportedOf(problems []definition.Problem) (texts []string) {
	for _, p := range problems[:min(len(problems), mostUnsupported)] {
		texts = append(texts, p.String())
	}
	return texts
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

// timeout is the time limit of a batch; 0 for none. Settings of an older operator have none: then it is a minute.
func (s settings) timeout(name string) time.Duration {
	if timeout, there := s.timeouts[name]; there {
		return timeout
	}
	return time.Minute
}

func (l *life) timeout(group string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.timeout(group)
}

// showsDetails reports whether those details of errors are shown that may hold data of events.
func (l *life) showsDetails() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.live.ErrorDetails == definition.DetailsShown
}

// lease of this worker; 0 for the default one.
func (l *life) lease() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.live.Lease.Value()
}
