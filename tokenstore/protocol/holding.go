package protocol

import (
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

// Outcome is how a write of an owner ended, as far as the owner can know.
type Outcome int

const (
	Committed  Outcome = iota
	RolledBack         // the store said so: the token is as it was
	Fenced             // somebody else has the token, or an earlier write of the owner did commit
	Unknown            // the connection was lost: it may have committed, may not have, and may still
)

// Holding is a token that a worker has claimed: what it believes of it, and what it may do with it now. One write at a time is
// under way. A release is a write too and waits for the one before it: drain comes before release. After Fenced and Unknown
// the worker believes nothing any more: only another claim tells what is true.
type Holding struct {
	Token   tokenstore.Token // as the worker believes it to be
	busy    bool             // a write is under way
	leaving bool             // to be released
	gone    bool
}

// Hold begins with a token as its claim returned it.
func Hold(t tokenstore.Token) Holding { return Holding{Token: t} }

// Begin begins a write, and reports whether it may.
func (h *Holding) Begin() bool {
	if h.busy || h.leaving || h.gone {
		return false
	}
	h.busy = true
	return true
}

// Advance is the write that moves the token to the parts.
func (h *Holding) Advance(parts []progress.Part, release bool) tokenstore.Advance {
	return tokenstore.Advance{Key: h.Token.Key, Epoch: h.Token.Epoch, Version: h.Token.Version, Parts: parts, WasParted: len(h.Token.Parts) > 1, Release: release}
}

// Settle takes note of how a write ended.
func (h *Holding) Settle(a tokenstore.Advance, o Outcome) {
	switch o {
	case Committed:
		h.Token.Version++
		h.Token.Parts = a.Parts
		h.gone = h.gone || a.Release
	case Fenced, Unknown:
		h.gone = true
	case RolledBack:
	}
}

// End ends what Begin began, and reports whether the token is to be released now.
func (h *Holding) End() (release bool) {
	h.busy = false
	return h.leaving && !h.gone
}

// Leave has the token released, and reports whether that is to be done now; else End will.
func (h *Holding) Leave() (now bool) {
	now = !h.leaving && !h.busy && !h.gone
	h.leaving = true
	return now
}

// Lose forgets the token: somebody else has it, or it has to be claimed again.
func (h *Holding) Lose() { h.gone = true }

// Busy reports whether a write is under way.
func (h *Holding) Busy() bool { return h.busy }

// Gone reports whether the worker does not have the token any more.
func (h *Holding) Gone() bool { return h.gone }

// Leaving reports whether the token is to be released.
func (h *Holding) Leaving() bool { return h.leaving }
