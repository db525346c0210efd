package stores

import (
	"context"
	"time"

	"github.com/sluice-project/sluice/controllers/stores/backend"
)

// secretsEvery is how often an open session checks that its Secrets could still open one.
const secretsEvery = 20 * time.Second

// watchSecrets reports a Secret that was changed to something unusable. Open connections still use
// the old content. Without this check, the fault would show only when a new connection fails, such
// as that of a new pod.
func (s *session) watchSecrets(ctx context.Context, storeID string) {
	usable := ""
	if connected := s.access.Connected(); connected != nil {
		usable = connected.Digest()
	}
	s.setUnusable(nil)
	every := time.NewTicker(s.options.SecretsEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		place, err := s.access.Find(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			// An error of the API server says nothing about the Secrets.
			if d, known := s.options.Backend.Diagnose(err, ""); known && d.Secrets {
				problem := s.options.problemOf(err, "")
				s.setUnusable(&problem)
			}
			continue
		}
		if place.Digest() != usable {
			err = s.try(ctx, place, storeID)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			usable = place.Digest()
			s.setUnusable(nil)
		default:
			problem := s.options.problemOf(err, place.String())
			s.setUnusable(&problem)
		}
	}
}

// try connects once, and checks that it reaches the same store.
func (s *session) try(ctx context.Context, place backend.Place, storeID string) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.ConnectTimeout)
	defer cancel()
	meta, err := place.Meta(ctx)
	if err == nil && meta.StoreID != storeID {
		err = &storeChangedError{belongs: storeID, found: meta.StoreID}
	}
	return err
}

func (s *session) setUnusable(problem *Problem) {
	s.mu.Lock()
	s.unusable = problem
	s.mu.Unlock()
	for _, p := range s.current() {
		p.setSecretProblem(problem)
	}
}
