package postgres

import "context"

// Unblock ends blockers, as a try of a reset does.
func (s *Store) Unblock(ctx context.Context, blockers []Blocker) error {
	return s.unblock(ctx, blockers)
}
