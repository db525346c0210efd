package definition

import "slices"

// Unguarded are those of the groups that may be replayed without a reset.
func (s Spec) Unguarded(groups []string) []string {
	var allowed []string
	for _, g := range s.ProcessingGroups {
		if g.Replay == ReplayAllow && slices.Contains(groups, g.Name) {
			allowed = append(allowed, g.Name)
		}
	}
	return allowed
}
