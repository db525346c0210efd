package tokenstore

import (
	"fmt"
	"slices"
	"strings"
)

// Owner is a processor as it declares its groups: the processor of one installation.
//
// A name alone proves nothing: two clusters may have the same name by default, and so may the
// processors in them.
type Owner struct {
	// Processor is cluster/namespace/name.
	Processor string
	// Installation is the ID of the operator's installation, or of a folder of sluice dev. It is
	// empty in rows that were written before there were IDs.
	Installation string
	// TakeOverFrom are the owners, as String writes them, that this one may take groups from.
	TakeOverFrom []string
}

// String is the owner as messages and spec.takeOverFrom name it:
// cluster/namespace/name@installation.
func (o Owner) String() string {
	if o.Installation == "" {
		return o.Processor
	}
	return o.Processor + "@" + o.Installation
}

// Is reports whether both are the same processor of the same installation.
func (o Owner) Is(other Owner) bool {
	return o.Processor == other.Processor && o.Installation == other.Installation
}

// Has reports whether a row that another owner has written is this owner's without anybody's
// consent: it is its own, or it has the same name and no installation.
func (o Owner) Has(row Owner) bool {
	return o.Processor == row.Processor && (row.Installation == "" || o.Installation == row.Installation)
}

// MayTake reports whether the owner may declare what another one has: it has it already, it has the
// other one's name in TakeOverFrom, or both are the same object of the same installation whose
// cluster got another name. That silence of the other one proves nothing is the point: its
// database, its network or its operator may be down while it goes on.
func (o Owner) MayTake(from Owner) bool {
	return o.Has(from) || slices.Contains(o.TakeOverFrom, from.String()) || o.sameInstallation(from) && o.sameObject(from)
}

func (o Owner) sameInstallation(other Owner) bool {
	return o.Installation != "" && o.Installation == other.Installation
}

// sameObject reports whether two owners differ in the cluster at most.
func (o Owner) sameObject(other Owner) bool {
	_, mine, _ := strings.Cut(o.Processor, "/")
	_, others, _ := strings.Cut(other.Processor, "/")
	return mine == others
}

func (o Owner) cluster() string {
	cluster, _, _ := strings.Cut(o.Processor, "/")
	return cluster
}

// GroupConflictError is returned when a processing group, or the processor's name, belongs to
// another owner.
type GroupConflictError struct {
	Group string // empty where the processor's name is what both want
	Owner Owner  // who has it
	By    Owner  // who wanted it
}

func (e *GroupConflictError) Error() string {
	return fmt.Sprintf("%s belongs to processor %s%s", e.what(), e.Owner, e.remedy())
}

func (e *GroupConflictError) what() string {
	if e.Group == "" {
		return "the name of this processor"
	}
	return "processing group " + e.Group
}

// remedy says what to change. It depends on what the two have in common.
func (e *GroupConflictError) remedy() string {
	consent := fmt.Sprintf("add %q to spec.takeOverFrom", e.Owner)
	switch {
	case e.SameName():
		return fmt.Sprintf(" of another installation; this one is %q: two clusters of the same name use one store. "+
			"If both are to run, give this operator another clusterName and this processor's groups other names, or another store. "+
			"If this installation replaces the other one, %s, or the other one's ID to the operator's formerInstallations", e.By.Installation, consent)
	case e.By.sameObject(e.Owner):
		return fmt.Sprintf(", which differs from this one in the cluster's name only. If the operator's clusterName was changed, "+
			"set it back to %s, or %s to keep %s. If the other cluster is to keep the group, name it otherwise here",
			e.Owner.cluster(), consent, e.By.cluster())
	}
	return ": name it otherwise here, take it out of that processor first, or " + consent
}

// SameName reports whether another installation has the processor itself, and not only one of its
// groups.
func (e *GroupConflictError) SameName() bool { return e.Owner.Processor == e.By.Processor }

// InstallationError is returned to a worker whose installation does not have the processor.
type InstallationError struct {
	Processor    string
	Installation string // the worker's; empty for one that does not know its own
	Owner        string // installation that has the processor
}

func (e *InstallationError) Error() string {
	return fmt.Sprintf("processor %s belongs to installation %q, and this worker is of installation %q: it handles nothing; the EventProcessor's conditions say what to do",
		e.Processor, e.Owner, e.Installation)
}
