package worker

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// situation is all that the decision on ownership rests on.
type situation struct {
	self     int64
	draining bool
	view     tokenstore.View
	tokens   []tokenstore.Token
	held     map[tokenstore.Key]int64 // epochs under which this worker has claimed
	refused  func(group string) bool
	broken   map[string]*protocol.LayoutError // groups whose tokens nobody may handle events by
	now      time.Time
	standing assignment.State             // of this worker
	orphaned map[tokenstore.Key]time.Time // since when a segment has been without a live assignee, kept from look to look
}

// decision is what a worker does about its segments.
type decision struct {
	drop       []tokenstore.Key // somebody else has claimed, split or merged them
	release    []tokenstore.Key // for whom the plan names
	claim      []tokenstore.Claim
	adopt      []tokenstore.Assignment // orphans to take, with their dead assignee
	dead       []death                 // owners of what is claimed or adopted that did not release it
	definition int64                   // number of the definition that this worker runs
	named      bool                    // the newest plan has taken this worker into account
	missing    int                     // segments assigned to it that it does not hold
	again      time.Duration           // look again after, 0 when only a change is worth it
}

const (
	// rankStep is how long each worker, in an order that differs from segment to segment, leaves the one before it for an orphan.
	rankStep = 20 * time.Millisecond
	// unassignedAfter is how long a segment without any assignee is left to the planner.
	unassignedAfter = time.Second
	// newerFirst is how long, in a rollout, a worker of an older definition leaves an orphan to those of the wanted one: it is about to end,
	// and the segment would move again.
	newerFirst = tokenstore.PlannerTimeout
	// retryClaim is how soon a worker looks again for a segment that another one has not released yet.
	retryClaim = 100 * time.Millisecond
)

// decide says what a worker does: it claims what is assigned to it and free, gives up what is assigned to another live
// worker, and adopts what is free and has a dead or no assignee, up to its fair share, unless it is on probation or about to
// leave. It never takes a live assignee's. One that does not live by the directory's clock takes nothing, whatever its own clock
// says of its lease: the others would take it back.
func decide(s situation) decision {
	d := decision{named: slices.Contains(s.view.Processor.Members, s.self)}
	workers := map[int64]tokenstore.Worker{}
	for _, w := range s.view.Workers {
		if w.Incarnation == s.self {
			d.definition = w.DefinitionNumber
		}
		if w.Alive {
			workers[w.Incarnation] = w
		}
	}
	assignees := map[tokenstore.Key]int64{}
	for _, a := range s.view.Assignments {
		assignees[a.Key] = a.Worker
	}
	_, lives := workers[s.self]
	shares := sharesOf(s, workers, assignees)
	there := map[tokenstore.Key]bool{}
	for _, t := range s.tokens {
		there[t.Key] = true
		assignee := assignees[t.Key]
		_, assigneeLives := workers[assignee]
		if assigneeLives || s.draining {
			delete(s.orphaned, t.Key)
		}
		switch epoch, held := s.held[t.Key]; {
		case held && (t.Epoch != epoch || t.Owner != s.self):
			d.drop = append(d.drop, t.Key)
			d.soon(time.Millisecond)
		case s.broken[t.Group] != nil:
			if held {
				d.release = append(d.release, t.Key)
			}
		case held && assignee != s.self && assigneeLives && workers[assignee].State == tokenstore.Active:
			d.release = append(d.release, t.Key)
		case held || s.draining || !lives || s.refused(t.Group) || t.Least > d.definition:
		case assignee == s.self:
			d.missing++
			d.claimIfFree(s, workers, t)
		case t.Owner == s.self && assigneeLives: // it forgot it, and who is to have it waits for its release: it can release what it holds
			d.claim = append(d.claim, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch})
			d.soon(time.Millisecond)
		case !assigneeLives && s.standing == assignment.Active && shares.hasRoom(s.self, t.Group):
			if d.adoptIfDue(s, workers, t, assignee, shares) {
				shares.assigned[share{s.self, t.Group}]++
			}
		}
	}
	var merged []tokenstore.Key // into others
	for key := range s.held {
		if !there[key] {
			merged = append(merged, key)
		}
	}
	slices.SortFunc(merged, compareKeys)
	d.drop = append(d.drop, merged...)
	return d
}

// shares are how many segments workers are assigned, and how many they may come to by adopting.
type shares struct {
	assigned map[share]int
	fair     map[string]int // by group
}

type share struct {
	worker int64
	group  string
}

func sharesOf(s situation, workers map[int64]tokenstore.Worker, assignees map[tokenstore.Key]int64) shares {
	of, takers := shares{map[share]int{}, map[string]int{}}, max(len(workers), 1)
	for _, t := range s.tokens {
		of.fair[t.Group]++
		of.assigned[share{assignees[t.Key], t.Group}]++
	}
	for group, n := range of.fair {
		of.fair[group] = (n + takers - 1) / takers
	}
	return of
}

func (s shares) hasRoom(worker int64, group string) bool {
	return s.assigned[share{worker, group}] < s.fair[group]
}

// leavesToNewer reports whether this worker runs an older definition than the wanted one while a worker of that may have the segment. It
// does not wait for workers that may not, such as are on probation or in quarantine, or have no room.
func leavesToNewer(s situation, definition int64, t tokenstore.Token, of shares) bool {
	wanted := s.view.Processor.Number
	return definition < wanted && slices.ContainsFunc(s.view.Workers, func(w tokenstore.Worker) bool {
		return w.DefinitionNumber >= wanted && planner.Eligible(s.view.Workers, w, t.Group, t.Least) && of.hasRoom(w.Incarnation, t.Group)
	})
}

func (d *decision) claimIfFree(s situation, workers map[int64]tokenstore.Worker, t tokenstore.Token) {
	if _, ownerLives := workers[t.Owner]; ownerLives && t.Owner != s.self {
		d.soon(retryClaim) // its release is announced; this is for an announcement that was lost
		return
	}
	d.unclean(s, t)
	d.claim = append(d.claim, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch})
}

// adoptIfDue takes an orphan when those who come before this worker have had their time.
func (d *decision) adoptIfDue(s situation, workers map[int64]tokenstore.Worker, t tokenstore.Token, assignee int64, of shares) bool {
	if _, ownerLives := workers[t.Owner]; ownerLives && t.Owner != s.self {
		return false
	}
	since, known := s.orphaned[t.Key]
	if !known {
		since = s.now
		s.orphaned[t.Key] = since
	}
	wait := time.Duration(rank(s.self, workers, t.Key)) * rankStep
	if assignee == 0 {
		wait += unassignedAfter
	}
	if leavesToNewer(s, d.definition, t, of) {
		wait += newerFirst
	}
	if left := since.Add(wait).Sub(s.now); left > 0 {
		d.soon(left)
		return false
	}
	d.unclean(s, t)
	d.adopt = append(d.adopt, tokenstore.Assignment{Key: t.Key, Worker: assignee})
	return true
}

func (d *decision) unclean(s situation, t tokenstore.Token) {
	known := slices.ContainsFunc(d.dead, func(of death) bool { return of.worker == t.Owner })
	if t.Owner != 0 && t.Owner != s.self && !known {
		d.dead = append(d.dead, death{t.Owner, detectorOf(t.Owner, s.view.Workers)})
	}
}

func (d *decision) soon(after time.Duration) {
	if d.again == 0 || after < d.again {
		d.again = after
	}
}

// rank returns a worker's place, from 0, in the order in which workers may take a segment: rendezvous hashing.
func rank(self int64, workers map[int64]tokenstore.Worker, key tokenstore.Key) int {
	place := 0
	mine := score(self, key)
	for other := range workers {
		if c := cmp.Compare(score(other, key), mine); c > 0 || c == 0 && other < self {
			place++
		}
	}
	return place
}

func score(worker int64, key tokenstore.Key) uint64 {
	h := fnv.New64a()
	var b [12]byte
	for i := range 8 {
		b[i] = byte(worker >> (8 * i))
	}
	for i := range 4 {
		b[8+i] = byte(key.Segment >> (8 * i))
	}
	h.Write(b[:])
	h.Write([]byte(key.Group))
	return h.Sum64()
}
