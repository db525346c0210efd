package definition

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluice-project/sluice/api/rules"
)

// place checks where a group begins, or goes back to.
func (c *checker) place(at string, p InitialPosition) {
	if !c.oneOf(at+".type", p.Type, Earliest, Latest, AtPosition, AtTimestamp) {
		return
	}
	c.short(at+".position", p.Position, 64)
	c.require((p.Position != "") == (p.Type == AtPosition) && (p.Timestamp != "") == (p.Type == AtTimestamp), at, rules.PlaceUnion)
	if p.Timestamp != "" {
		_, err := time.Parse(time.RFC3339, p.Timestamp)
		c.require(err == nil, at+".timestamp", fmt.Sprintf("Invalid value: %q: it is not a time such as 2026-11-21T09:30:00Z", p.Timestamp))
	}
}

func (c *checker) replay(s Spec) {
	const at = "spec.replay"
	if s.Replay == nil {
		return
	}
	if c.text(at+".id", s.Replay.ID, 60) {
		c.require(dnsLabel.MatchString(s.Replay.ID), at+".id", rules.ReplayID)
	}
	c.items(at+".groups", len(s.Replay.Groups), 1, 32)
	known := func(name string) bool {
		return slices.ContainsFunc(s.ProcessingGroups, func(g Group) bool { return g.Name == name })
	}
	for i, name := range s.Replay.Groups {
		if slices.Contains(s.Replay.Groups[:i], name) {
			c.add(fmt.Sprintf("%s.groups[%d]", at, i), fmt.Sprintf("Duplicate value: %q", name))
		}
	}
	c.require(!slices.ContainsFunc(s.Replay.Groups, func(name string) bool { return !known(name) }), "spec", rules.ReplayGroups)
	c.place(at+".from", s.Replay.From)
	c.require(len(s.Replay.Context) <= 16, at+".context", "must have at most 16 items")
	for _, key := range slices.Sorted(maps.Keys(s.Replay.Context)) {
		c.short(at+".context."+key, s.Replay.Context[key], 1024)
	}
}
