package stores

import (
	"context"
	"time"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/tokenstore"
)

// Workers know the lag of the segments that they own exactly. For all else the operator computes it, from the tokens and the
// source: segments that nobody owns, and workers that do not read although their segments are behind.

// readWithin is how far tokens of workers that read may be behind what there is: they are written every few seconds.
const readWithin = 30 * time.Second

// positions are where a group's tokens stand.
type positions struct {
	lowest int64 // of all segments
	free   int64 // of those that no live worker reports on; negative where there are none
}

// positionsOf finds them, by group.
func positionsOf(outcome planner.Outcome) map[string]positions {
	reporting := map[string]map[int64]bool{}
	for _, worker := range outcome.View.Workers {
		for group := range worker.Report.Groups {
			if !worker.Alive {
				continue
			}
			if reporting[group] == nil {
				reporting[group] = map[int64]bool{}
			}
			reporting[group][worker.Incarnation] = true
		}
	}
	all := map[string]positions{}
	for _, token := range outcome.Tokens {
		at := lowestOf(token)
		p, known := all[token.Group]
		if !known {
			p = positions{lowest: at, free: -1}
		}
		p.lowest = min(p.lowest, at)
		if !reporting[token.Group][token.Owner] && (p.free < 0 || at < p.free) {
			p.free = at
		}
		all[token.Group] = p
	}
	return all
}

func lowestOf(token tokenstore.Token) int64 {
	var lowest int64
	for i, part := range token.Parts {
		if at := part.Progress.Position; i == 0 || at < lowest {
			lowest = at
		}
	}
	return lowest
}

// lags are ages in seconds of the oldest events that wait, by group. A group that is missing has none that is known.
type lags map[string]float64

// lagsOf puts together what workers report and what the source says of what they do not report on. An event after a free
// segment's position may be of another segment, so the age is an upper bound.
func lagsOf(outcome planner.Outcome, waiting func(after int64) (time.Duration, bool, error)) (lags, error) {
	all, at := lags{}, positionsOf(outcome)
	ages := map[int64]float64{} // groups often stand at the same positions
	age := func(after int64) (float64, error) {
		if known, asked := ages[after]; asked {
			return known, nil
		}
		found, _, err := waiting(after)
		if err != nil {
			return 0, err
		}
		ages[after] = found.Seconds()
		return ages[after], nil
	}
	for _, group := range outcome.Groups {
		p, has := at[group.Name]
		if !has {
			continue
		}
		lag, err := age(p.lowest)
		if err != nil {
			return nil, err
		}
		if lag < readWithin.Seconds() {
			lag = 0
		}
		if p.free >= 0 {
			free, err := age(p.free)
			if err != nil {
				return nil, err
			}
			lag = max(lag, free)
		}
		all[group.Name] = max(lag, reportedLag(outcome, group.Name))
	}
	return all, nil
}

func reportedLag(outcome planner.Outcome, group string) float64 {
	worst := 0.0
	for _, worker := range outcome.View.Workers {
		if worker.Alive {
			worst = max(worst, worker.Report.Groups[group].Lag)
		}
	}
	return worst
}

// lagTries is how many rounds in a row read the lag again after it could not be read.
const lagTries = 3

// lagMemory keeps a processor's lags from one look to the next. Only the processor's loop uses it.
type lagMemory struct {
	known  map[string]knownLag // by group
	unread string              // why events could not be read at the last look; empty if they could
	failed int                 // looks in a row at which they could not
}

type knownLag struct {
	seconds float64
	at      time.Time
}

// retry reports whether the next round has to look at the store instead of only renewing the plan,
// so that a short failure does not leave the lag unknown until the next look is due. After lagTries
// failures it waits for that look: a lag that cannot be read for long causes no additional looks.
func (m *lagMemory) retry() bool { return m.failed > 0 && m.failed <= lagTries }

// update takes the lags that a look has read, and returns those to report. If the lag of a group was
// not read, its last known lag plus the time since then is an upper bound: no waiting event can be
// older. This bound is reported for lagKept.
func (m *lagMemory) update(found lags, groups []tokenstore.Group, now time.Time) lags {
	reported, known := lags{}, map[string]knownLag{}
	for _, group := range groups {
		last, has := m.known[group.Name]
		if seconds, fresh := found[group.Name]; fresh {
			last, has = knownLag{seconds, now}, true
		}
		if has && now.Sub(last.at) < lagKept {
			reported[group.Name], known[group.Name] = last.seconds+now.Sub(last.at).Seconds(), last
		}
	}
	m.known = known
	return reported
}

// lagPatience is how long reading the lags may take. What else a round has found is published only
// afterwards.
const lagPatience = 3 * time.Second

// lags reads the lags. It has a time limit of its own, because a long round may have used up its
// own. An error is logged once for as long as it stays the same.
//
// Of a source in a database of its own the lags may come a little later, and none are asked for
// while that cannot be used.
func (p *processor) lags(source backend.Source, w Wanted, outcome planner.Outcome) lags {
	read := func(ctx context.Context) (lags, error) {
		return lagsOf(outcome, func(after int64) (time.Duration, bool, error) { return source.Waiting(ctx, after) })
	}
	var found lags
	var err error
	if w.Spec.Source.Postgres == nil {
		ctx, cancel := context.WithTimeout(p.life, lagPatience)
		defer cancel()
		found, err = read(ctx)
	} else {
		if p.separate.outage() != nil {
			return nil
		}
		var answered bool
		if found, err, answered = p.separate.waiting.ask(p.life, p.poke, read); !answered {
			return nil
		}
		if aboutSource(err) {
			p.sourceFailed(err)
			return nil
		}
	}
	if err == nil {
		p.lagged.unread, p.lagged.failed = "", 0
		return found
	}
	if text := err.Error(); text != p.lagged.unread {
		p.options.Log.Info("The lag is not known: events cannot be read", "processor", p.key.String(), "error", text)
		p.lagged.unread = text
	}
	p.lagged.failed++
	return nil
}
