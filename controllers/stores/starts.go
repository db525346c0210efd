package stores

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-project/sluice/progress"
)

// starts looks for the places where groups start. That may take longer than a round, as for a time in a table that has no index of it: then a search goes on, and a
// later round takes what it has found.
type starts struct {
	mu       sync.Mutex
	searches map[string]*search // by group
}

type search struct {
	place    progress.StartPosition
	done     chan struct{}
	progress progress.Progress
	err      error
}

// startPatience is how long a round waits for a search.
const startPatience = 2 * time.Second

// find waits for what a search finds, for a while. The search itself ends with life.
func (s *starts) find(life, round context.Context, group string, place progress.StartPosition, look func(context.Context) (progress.Progress, error)) (progress.Progress, error) {
	s.mu.Lock()
	found := s.searches[group]
	if found == nil || found.place != place {
		found = &search{place: place, done: make(chan struct{})}
		if s.searches == nil {
			s.searches = map[string]*search{}
		}
		s.searches[group] = found
		go func() {
			defer close(found.done)
			found.progress, found.err = look(life)
		}()
	}
	s.mu.Unlock()
	patience := time.NewTimer(startPatience)
	defer patience.Stop()
	select {
	case <-patience.C:
		return progress.Progress{}, &searchingError{group, place}
	case <-round.Done():
		return progress.Progress{}, &searchingError{group, place}
	case <-found.done:
		s.mu.Lock()
		if s.searches[group] == found {
			delete(s.searches, group) // it is of its time
		}
		s.mu.Unlock()
		return found.progress, found.err
	}
}

// searchingError says what a group waits for.
type searchingError struct {
	group string
	place progress.StartPosition
}

func (e *searchingError) Error() string {
	return fmt.Sprintf("the place where the group %s starts (%s) is still being looked for: all events are looked at where the column of their times has no index; CREATE INDEX on it makes that quick", e.group, e.place.Type)
}
