package definition

import (
	"github.com/sluice-project/sluice/api/rules"
	"github.com/sluice-project/sluice/segment"
)

// orZero is the zero value for what was true before there was a choice, so that it leaves no trace in a definition.
func (s Sequencing) orZero() Sequencing {
	if s == (Sequencing{Type: PerStream, Hash: HashDefault}) {
		return Sequencing{}
	}
	return s
}

// Policy is the sequencing as package segment has it. The zero value is that of streams by the default hash.
func (s Sequencing) Policy() segment.Sequencing {
	if s == (Sequencing{}) {
		return segment.PerStream
	}
	policy := segment.Sequencing{Type: segment.SequencingType(s.Type), Hash: segment.HashPG1}
	if s.Hash == HashJava {
		policy.Hash = segment.HashJava
	}
	if s.Property != nil {
		policy.Property = s.Property.Path
	}
	if s.Metadata != nil {
		policy.Metadata = s.Metadata.Key
	}
	return policy
}

// Sequencings are those of some groups, by name, in the form in which stores have them.
func (s Spec) Sequencings(groups []string) map[string]string {
	all := map[string]string{}
	for _, name := range groups {
		for _, g := range s.ProcessingGroups {
			if g.Name == name {
				all[name] = g.Sequencing.Policy().String()
			}
		}
	}
	return all
}

func (c *checker) sequencing(at string, s Sequencing) {
	if !c.oneOf(at+".type", s.Type, PerStream, ByProperty, ByMetadata, Sequential, Concurrent, Broadcast) {
		return
	}
	c.require((s.Property != nil) == (s.Type == ByProperty) && (s.Metadata != nil) == (s.Type == ByMetadata), at, rules.SequencingUnion)
	if s.Property != nil && c.text(at+".property.path", s.Property.Path, 256) {
		c.require(property.MatchString(s.Property.Path) && notBlank.MatchString(s.Property.Path), at+".property.path", rules.PropertyPath)
	}
	if s.Metadata != nil && c.text(at+".metadata.key", s.Metadata.Key, 256) {
		c.require(notBlank.MatchString(s.Metadata.Key), at+".metadata.key", rules.NotBlank)
	}
	c.oneOf(at+".hash", s.Hash, HashDefault, HashJava)
}
