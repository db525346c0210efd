package stores

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
)

// Problem is why the operator cannot do in a store what it should.
type Problem struct {
	// Reason is one of the API's: of StoreReachable, or StoreChanged, MigrationRequired,
	// GroupConflict, SourceInvalid, SourceUnreachable, SequencingChanged.
	Reason string
	// Message says what to change. It is the same for as long as the problem is.
	Message string
	// Since is when it was first met; of an outage, since when there has been one, whatever its reason was at first.
	Since time.Time
	// OperatorOnly says that workers may do what the operator may not.
	OperatorOnly bool
	// Passes says that no edit is needed: it is over when something else is.
	Passes bool
	// Blind says that the operator does not read the store while the problem lasts. Its facts are
	// those of its last look.
	Blind bool
	// NoTables says that the store has none of Sluice's tables.
	NoTables bool
}

// Outage reports whether the store cannot be used at all. Other problems are about what is in a store that answers.
func (p *Problem) Outage() bool {
	switch p.Reason {
	case v1alpha1.ReasonStoreChanged, v1alpha1.ReasonMigrationRequired, v1alpha1.ReasonGroupConflict, v1alpha1.ReasonPlaceInvalid,
		v1alpha1.ReasonProgressing, // looks for where a group starts

		v1alpha1.ReasonSourceInvalid, v1alpha1.ReasonSequencingChanged:
		return false
	}
	return true
}

// Hides reports whether the operator does not know any more who owns which segment. It is false
// while a migration runs, because the workers keep their segments meanwhile.
func (p *Problem) Hides() bool { return p.Outage() || p.Blind && !p.Passes }

// migrating says that a migration goes on.
func migrating(schema string) *Problem {
	return &Problem{Reason: v1alpha1.ReasonMigrationRequired, Passes: true, Message: fmt.Sprintf(
		"schema %s is being migrated, by the operator or by somebody for whom it waits; workers that run go on meanwhile", schema)}
}

// NeedsSecret reports whether nothing but another Secret helps.
func (p *Problem) NeedsSecret() bool {
	return p.Reason == v1alpha1.ReasonSecretNotFound || p.Reason == v1alpha1.ReasonInvalidURL
}

// problemOf says what an error means to users. place is where the operator connected to, for the message.
func (o Options) problemOf(err error, place string) Problem {
	var (
		protocol  *tokenstore.ProtocolError
		conflict  *tokenstore.GroupConflictError
		noPlace   *eventsource.StartPositionError
		unfit     *eventsource.InvalidError
		searching *searchingError
		sequence  *tokenstore.SequencingChangedError
		changed   *storeChangedError
	)
	switch {
	case errors.As(err, &protocol):
		return Problem{Reason: v1alpha1.ReasonOperatorCannotConnect, Message: protocol.Error()}
	case errors.As(err, &conflict):
		return Problem{Reason: v1alpha1.ReasonGroupConflict, Message: conflict.Error()}
	case errors.As(err, &noPlace):
		return Problem{Reason: v1alpha1.ReasonPlaceInvalid, Message: err.Error()}
	case errors.As(err, &searching):
		return Problem{Reason: v1alpha1.ReasonProgressing, Message: searching.Error(), Passes: true}
	case errors.As(err, &unfit):
		return Problem{Reason: v1alpha1.ReasonSourceInvalid, Message: unfit.Error()}
	case errors.As(err, &sequence):
		return Problem{Reason: v1alpha1.ReasonSequencingChanged, Message: sequence.Error(), Passes: sequence.Running != ""}
	case errors.As(err, &changed):
		return Problem{Reason: v1alpha1.ReasonStoreChanged, Message: changed.Error()}
	}
	if d, known := o.Backend.Diagnose(err, place); known {
		return Problem{Reason: d.Reason, Message: d.Message, NoTables: d.NoTables}
	}
	return Problem{Reason: v1alpha1.ReasonConnectionFailed, Message: place + ": " + causeOf(err)}
}

// sourceProblemOf says what an outage of a source in a database of its own means to users. The
// message has the reason that a store would have.
func (o Options) sourceProblemOf(outage *backend.SourceError) Problem {
	place := cmp.Or(outage.Place, "its Secrets")
	d, known := o.Backend.Diagnose(outage.Err, place)
	if !known {
		d.Reason, d.Message = v1alpha1.ReasonConnectionFailed, place+": "+causeOf(outage.Err)
	}
	return Problem{Reason: v1alpha1.ReasonSourceUnreachable, Passes: true, OperatorOnly: d.Reason == v1alpha1.ReasonOperatorCannotConnect,
		Message: fmt.Sprintf("the source's database: %s: %s", d.Reason, d.Message)}
}

// causeOf is an error's text without what differs from one attempt to the next, such as the port that was dialled from.
func causeOf(err error) string {
	var name *net.DNSError
	var network *net.OpError
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return fmt.Sprintf("host %s is not known", name.Name)
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &network):
		return network.Err.Error()
	}
	return err.Error()
}

// storeChangedError says that a store is not the one that the processor belongs to.
type storeChangedError struct {
	belongs, found string
	elsewhere      bool
}

func (e *storeChangedError) Error() string {
	if e.elsewhere {
		return fmt.Sprintf("store %s has been copied to another database server, where the tokens' transaction numbers mean nothing: pods that connect to the copy handle nothing"+
			" until `sluice rebase` has made it one of that server, or the Secret leads to the original; pods that are still connected to the original go on", e.found)
	}
	return fmt.Sprintf("the processor belongs to store %s, and the Secret leads to store %s now: nothing is initialised there, and pods that connect to it handle nothing,"+
		" until the Secret leads to the former again, or spec.store.postgres.expectedStoreID names the latter; pods that are still connected to the former go on", e.belongs, e.found)
}
