package segment

import (
	"fmt"
	"strings"
)

// SequencingType names where the sequence key of an event comes from.
type SequencingType string

const (
	// Stream takes the id of the event's stream.
	Stream SequencingType = "Stream"
	// Property takes a value out of the event's data.
	Property SequencingType = "Property"
	// Metadata takes a value out of the event's metadata.
	Metadata SequencingType = "Metadata"
	// Sequential takes one key for all events, so that a single segment handles them all, in order.
	Sequential SequencingType = "Sequential"
	// Concurrent takes the event's own id, so that nothing is kept in order.
	Concurrent SequencingType = "Concurrent"
	// Broadcast takes none: every segment handles every event.
	Broadcast SequencingType = "Broadcast"
)

// HashName names the function that makes a hash of a sequence key. Names are stored with groups.
type HashName string

const (
	HashPG1  HashName = "pg1"  // [PG1], the default
	HashJava HashName = "java" // [Java], and what Java computes of numbers and truth values
)

// Sequencing says which events of a group must be handled in order: those with the same sequence key, whose hash selects the
// segment. It is comparable.
type Sequencing struct {
	Type SequencingType
	// Property is the way to the key in the data, of type Property: names of fields with dots between them.
	Property string
	// Metadata is the name of the field of the metadata that is the key, of type Metadata.
	Metadata string
	Hash     HashName
}

// PerStream is the sequencing of groups that say nothing.
var PerStream = Sequencing{Type: Stream, Hash: HashPG1}

// Valid returns an error that names what is wrong and what can be chosen.
func (s Sequencing) Valid() error {
	switch s.Type {
	case Property, Metadata:
		if (s.Property != "") != (s.Type == Property) || (s.Metadata != "") != (s.Type == Metadata) {
			return fmt.Errorf("sequencing type %s needs its field, and takes no other", s.Type)
		}
	case Stream, Sequential, Concurrent, Broadcast:
		if s.Property != "" || s.Metadata != "" {
			return fmt.Errorf("sequencing type %s takes neither a property nor a field of the metadata", s.Type)
		}
	default:
		return fmt.Errorf("sequencing type %q is not known, choose %s, %s, %s, %s, %s or %s", s.Type, Stream, Property, Metadata, Sequential, Concurrent, Broadcast)
	}
	if s.Hash != HashPG1 && s.Hash != HashJava {
		return fmt.Errorf("hash %q is not known, choose %s or %s", s.Hash, HashPG1, HashJava)
	}
	return nil
}

// Columns returns the sequencing as it is stored with a group: policy and hash. Broadcast hashes nothing, so that it has one
// form only.
func (s Sequencing) Columns() (policy, hash string) {
	policy, hash = string(s.Type), string(s.Hash)
	switch s.Type {
	case Property:
		policy += ":" + s.Property
	case Metadata:
		policy += ":" + s.Metadata
	case Broadcast:
		hash = string(HashPG1)
	case Stream, Sequential, Concurrent:
	}
	return policy, hash
}

// String returns policy and hash, as in Property:customer.id/pg1. Two sequencings that select alike have the same.
func (s Sequencing) String() string {
	policy, hash := s.Columns()
	return policy + "/" + hash
}

// NeedsContents reports whether keys are taken out of more of an event than its stream: its data, its metadata or its id.
func (s Sequencing) NeedsContents() bool {
	return s.Type == Property || s.Type == Metadata || s.Type == Concurrent
}

// ParseSequencing reads what String has written.
func ParseSequencing(text string) (Sequencing, error) {
	if text == "Stream/pg1" {
		return PerStream, nil
	}
	cut := strings.LastIndexByte(text, '/')
	if cut < 0 {
		return Sequencing{}, fmt.Errorf("sequencing %q: it has no hash, as Stream/pg1 has", text)
	}
	kind, field, _ := strings.Cut(text[:cut], ":")
	s := Sequencing{Type: SequencingType(kind), Hash: HashName(text[cut+1:])}
	if s.Type == Metadata {
		s.Metadata = field
	} else {
		s.Property = field
	}
	if err := s.Valid(); err != nil {
		return Sequencing{}, fmt.Errorf("sequencing %q: %w", text, err)
	}
	return s, nil
}
