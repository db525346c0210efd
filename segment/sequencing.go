package segment

import "fmt"

// Sequencing says which events of a group must be handled in order: those with the same sequence key, whose hash
// selects the segment.
type Sequencing string

// PerStream takes the stream id as the sequence key.
const PerStream Sequencing = "Stream"

// Valid returns an error that names what can be chosen.
func (s Sequencing) Valid() error {
	if s != PerStream {
		return fmt.Errorf("sequencing type %q is not known, choose %q", string(s), string(PerStream))
	}
	return nil
}

// Hash returns the hash of the sequence key of an event of the given stream.
func (s Sequencing) Hash(streamID string) uint32 { return PG1(streamID) }
