package memory

import (
	"cmp"
	"slices"

	"github.com/sluice-project/sluice/tokenstore"
)

// Commit is a transaction that has committed.
type Commit struct {
	// Changes of tokens, by group and segment.
	Changes []Change
	// Puts and Appends are what was written to rows of projections.
	Puts    map[string]string
	Appends map[string]string
}

// Change is a change of a token. Before is nil for one that was made, After for one that was deleted.
type Change struct {
	Before, After *tokenstore.Token
}

// observer is told of commits.
type observer struct {
	call   func(Commit)
	tokens map[tokenstore.Key]tokenstore.Token // as they were after the last commit
	tx     *Tx                                 // of the transaction that runs
}

// OnCommit has a function called with each transaction that changes tokens or rows, in the order of
// their commits. The function must not use the database.
func (d *Database) OnCommit(call func(Commit)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.observer = observer{call: call, tokens: d.tokens()}
}

// transaction locks the database until the function that it returns is called, which tells the
// observer what has changed.
func (d *Database) transaction() (end func()) {
	d.mu.Lock()
	return func() {
		defer d.mu.Unlock()
		if d.observer.call != nil {
			d.observe()
		}
	}
}

// observe tells the observer what has changed. The caller holds the lock.
func (d *Database) observe() {
	var c Commit
	o := &d.observer
	before, after := o.tokens, d.tokens()
	for key, t := range after {
		was, there := before[key]
		switch {
		case !there:
			c.Changes = append(c.Changes, Change{After: &t})
		case was.Version != t.Version || was.Epoch != t.Epoch || was.Owner != t.Owner || was.Mask != t.Mask:
			c.Changes = append(c.Changes, Change{Before: &was, After: &t})
		}
	}
	for key, was := range before {
		if _, there := after[key]; !there {
			c.Changes = append(c.Changes, Change{Before: &was})
		}
	}
	slices.SortFunc(c.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.key().Group, b.key().Group), cmp.Compare(a.key().Segment, b.key().Segment))
	})
	if o.tx != nil {
		c.Puts, c.Appends = o.tx.writes, o.tx.appends
	}
	o.tokens, o.tx = after, nil
	if len(c.Changes)+len(c.Puts)+len(c.Appends) > 0 {
		o.call(c)
	}
}

func (c Change) key() tokenstore.Key {
	if c.After == nil {
		return c.Before.Key
	}
	return c.After.Key
}

// tokens are those of all groups. The caller holds the lock.
func (d *Database) tokens() map[tokenstore.Key]tokenstore.Token {
	all := map[tokenstore.Key]tokenstore.Token{}
	for _, g := range d.groups {
		for _, t := range g.tokens {
			all[t.Key] = t
		}
	}
	return all
}
