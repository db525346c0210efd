package definition

import (
	"cmp"
	"fmt"
	"slices"
)

// Live are the settings that take effect without a restart. They travel through the store.
type Live struct {
	Generation   int64        `json:"generation"` // of the spec; settings of a higher one replace these
	DesiredState DesiredState `json:"desiredState"`
	Lease        Duration     `json:"lease,omitempty"`
	ErrorDetails string       `json:"errorDetails,omitempty"`
	Groups       []LiveGroup  `json:"groups"` // sorted by name
}

// LiveGroup are a group's live settings.
type LiveGroup struct {
	Name         string       `json:"name"`
	Segments     int32        `json:"segments"`
	MaxBatchSize int32        `json:"maxBatchSize"`
	Timeout      Duration     `json:"timeout,omitempty"`
	DesiredState DesiredState `json:"desiredState"`
	OnError      OnError      `json:"onError"`
}

// Live returns the live settings of a spec, which need not have its defaults.
func (s Spec) Live(generation int64) Live {
	s.Default() // of the copy: it shares nothing with the caller's
	live := Live{Generation: generation, DesiredState: s.DesiredState, Lease: s.Lease, ErrorDetails: s.ErrorDetails}
	for _, group := range s.ProcessingGroups {
		live.Groups = append(live.Groups, LiveGroup{
			Name:         group.Name,
			Segments:     group.Segments,
			MaxBatchSize: group.MaxBatchSize,
			Timeout:      group.Timeout,
			DesiredState: group.DesiredState,
			OnError:      group.OnError,
		})
	}
	slices.SortFunc(live.Groups, func(a, b LiveGroup) int { return cmp.Compare(a.Name, b.Name) })
	return live
}

// ParseLive reads live settings from JSON. Unknown fields and values out of range are refused.
func ParseLive(data []byte) (Live, error) {
	var live Live
	if err := decodeStrict(data, &live); err != nil {
		return Live{}, fmt.Errorf("reading live settings: %w", err)
	}
	c := &checker{}
	c.require(live.Generation >= 0, "generation", "should be greater than or equal to 0")
	c.oneOf("desiredState", string(live.DesiredState), string(Running), string(Paused))
	if live.Lease != "" { // settings that were written before it could be set have none
		c.lease("lease", live.Lease)
	}
	if live.ErrorDetails != "" {
		c.oneOf("errorDetails", live.ErrorDetails, DetailsHidden, DetailsShown)
	}
	for i, group := range live.Groups {
		at := fmt.Sprintf("groups[%d]", i)
		c.text(at+".name", group.Name, 63)
		c.between(at+".segments", group.Segments, 1, 32767)
		c.between(at+".maxBatchSize", group.MaxBatchSize, 1, 10000)
		if group.Timeout != "" {
			c.timeout(at+".timeout", group.Timeout)
		}
		c.oneOf(at+".desiredState", string(group.DesiredState), string(Running), string(Paused))
		c.onError(at+".onError", group.OnError)
	}
	if len(c.problems) > 0 {
		return Live{}, fmt.Errorf("reading live settings: %w", &InvalidError{Problems: c.problems})
	}
	return live, nil
}
