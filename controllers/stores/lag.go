package stores

import (
	"context"
	"time"

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

// lagTries is how often in a row the lag is asked for again at once where it could not be had.
const lagTries = 3

// lagMemory is what is remembered of a processor's lags from look to look. Of the loop alone.
type lagMemory struct {
	known  map[string]knownLag // by group
	unread string              // why events could not be read at the last look
	failed int                 // looks in a row at which they could not
}

type knownLag struct {
	seconds float64
	at      time.Time
}

// again reports whether the next round is to look rather than to renew: what could not be read for
// a moment must not be unknown until the next look is due. What cannot be read at all has no more
// effect than that.
func (m *lagMemory) again() bool { return m.failed > 0 && m.failed <= lagTries }

// note takes over what a look has found, and returns the lags to report. One that was not found is
// reported for as long as its metric is, and grows by the second: an event that has waited since
// the lag was known is older now, and later ones are younger than that, so it is an upper bound.
func (m *lagMemory) note(found lags, groups []tokenstore.Group, now time.Time) lags {
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

// lagPatience is how long the source may take to tell of the lags: what else a round has found is
// told only afterwards.
const lagPatience = 3 * time.Second

// lags asks the source, in a time of its own: a round that took long has none left. What cannot be
// read is logged when that is news.
func (p *processor) lags(l *link, w Wanted, outcome planner.Outcome) lags {
	ctx, cancel := context.WithTimeout(p.life, lagPatience)
	defer cancel()
	source := p.options.Source(l.pool, w.store().Schema, w.Spec.Source)
	found, err := lagsOf(outcome, func(after int64) (time.Duration, bool, error) { return source.Waiting(ctx, after) })
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
