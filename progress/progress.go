// Package progress describes how far a segment has come in an event source, in the source's own
// format. Everything else stands on it: sources compute with progress, and stores keep it.
package progress

import (
	"fmt"
	"time"

	"github.com/sluice-project/sluice/segment"
)

// Progress is how far a part of a segment has come.
type Progress struct {
	// Position is roughly the position up to which events have been handled. It is for ordering and
	// display.
	Position int64
	// State is the rest, in the format of the source that wrote it. Nobody else reads it.
	State string
}

// Part is a share of a segment with one progress. A token has one part. After a merge of two halves
// that have come unequally far it has one for each half, until they have reached the same progress.
type Part struct {
	Segment  segment.Segment
	Progress Progress
}

// Algebra computes with progress. Errors say that a progress is not in the source's format.
type Algebra interface {
	// Union is the progress that covers what a or b covers.
	Union(a, b Progress) (Progress, error)
	// Intersect is the progress that covers what both a and b cover.
	Intersect(a, b Progress) (Progress, error)
	// Contains reports whether a covers all that b covers.
	Contains(a, b Progress) (bool, error)
	// Distance is how many positions to is ahead of from at most: for figures of lag, and to tell
	// what is live from what is catching up. It is 0 if to is not ahead. Late events that from lacks
	// below its own position do not count.
	Distance(from, to Progress) (int64, error)
}

// StartType names a kind of StartPosition.
type StartType string

const (
	Earliest    StartType = "Earliest"  // the oldest event
	Latest      StartType = "Latest"    // the first event whose transaction ends after the source was asked
	AtPosition  StartType = "Position"  // the first event at the position or above it
	AtTimestamp StartType = "Timestamp" // the first event recorded at the time or after it
)

// StartPosition is where in its source a group starts, or where a replay sets it back to.
type StartPosition struct {
	Type      StartType `json:"type"`
	Position  string    `json:"position,omitempty"` // of AtPosition, in the source's format
	Timestamp time.Time `json:"timestamp,omitzero"` // of AtTimestamp
}

// ParseStartPosition reads a start position as manifests write it; the error says what is wrong.
func ParseStartPosition(kind, position, timestamp string) (StartPosition, error) {
	start := StartPosition{Type: StartType(kind), Position: position}
	if timestamp != "" {
		at, err := time.Parse(time.RFC3339, timestamp)
		if err != nil {
			return StartPosition{}, fmt.Errorf("%q is not a time such as 2026-11-21T09:30:00Z", timestamp)
		}
		start.Timestamp = at
	}
	return start, nil
}
