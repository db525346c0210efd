package worker

import (
	"cmp"
	"sync"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// rate counts events a second, smoothed over about ten seconds.
type rate struct {
	mu      sync.Mutex
	handled int64 // since the start
	again   int64 // of these, events of a replay
	counted int64 // when the rate was taken last
	at      time.Time
	value   float64
}

func (r *rate) add(events, again int) {
	r.mu.Lock()
	r.handled += int64(events)
	r.again += int64(again)
	r.mu.Unlock()
}

// take returns the numbers of events handled so far, how many of them again, and the rate, which it brings up to date.
func (r *rate) take(now time.Time) (handled, again int64, perSecond float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if elapsed := now.Sub(r.at).Seconds(); !r.at.IsZero() && elapsed > 0 {
		share := min(1, elapsed/3)
		r.value += share * (float64(r.handled-r.counted)/elapsed - r.value)
		if r.value < 0.01 {
			r.value = 0
		}
	}
	r.at, r.counted = now, r.handled
	return r.handled, r.again, r.value
}

// makeReport says how the groups fare here.
func (l *life) makeReport() tokenstore.Report {
	now := time.Now()
	report := tokenstore.Report{Ready: l.Worker.ready.Load(), Groups: map[string]tokenstore.GroupReport{}}
	l.proof.report(&report)
	report.Unfit = l.elsewhere.report(now)
	if open := l.openWriters.Load(); open != nil {
		report.OpenWriters = *open
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	report.Unsupported = l.settings.unsupported
	for name, g := range l.groups {
		r := tokenstore.GroupReport{Refused: !g.fit && g.fault != nil || g.differs, Fault: lasting(cmp.Or(g.fault, g.unagreed))}
		r.Handled, r.Replayed, r.Rate = g.rate.take(now)
		report.Groups[name] = r
	}
	for _, s := range l.segments {
		r := report.Groups[s.group.name]
		s.addTo(&r, now, l.storeClock.now())
		report.Groups[s.group.name] = r
	}
	l.addCalls(report.Groups)
	l.abandoned.addTo(report.Groups, now)
	for name, r := range report.Groups {
		r.Calls = oldest(r.Calls)
		report.Groups[name] = r
	}
	l.show()
	if unread := lasting(cmp.Or(l.unread.Load(), l.waitsToRead(now))); unread != nil {
		for name, r := range report.Groups {
			if r.Fault == nil {
				r.Fault = unread
				report.Groups[name] = r
			}
		}
	}
	l.showCalls(report)
	for name, r := range report.Groups {
		l.metrics.group(name, r)
	}
	l.metrics.keeps(l.feed.Memory())
	l.metrics.rest.Set(l.courtesy.resting(time.Now()))
	return report
}

const (
	// contentionShown is how long others have to be in a segment's way until that is reported.
	contentionShown = 5 * time.Second
	// searchShown is how long an event that fails has to be looked for until that is reported.
	searchShown = time.Second
)

// addTo adds a segment to its group's report, at a time of this machine's and of the database's clock. The caller holds the
// life's lock.
func (s *segmentRun) addTo(r *tokenstore.GroupReport, now, atStore time.Time) {
	position := s.Token.Parts[0].Progress.Position
	if r.Segments == 0 || position < r.Position {
		r.Position = position
	}
	r.Segments++
	r.Lag = max(r.Lag, s.lag(atStore))
	if c := s.calling.Load(); c != nil && now.Sub(c.began) >= tokenstore.LongCall {
		r.Calls = append(r.Calls, c.report(now))
	}
	if s.fault == nil || passes(s.fault, now) {
		return
	}
	if s.fault.Kind == tokenstore.EventFault {
		r.Blocked++
	}
	if r.Fault == nil || r.Fault.Kind == tokenstore.EventFault {
		r.Fault = lasting(s.fault)
	}
}

// passes reports whether a fault may be over before anybody could do something about it.
func passes(fault *tokenstore.Fault, now time.Time) bool {
	switch {
	case fault.Kind == tokenstore.ContentionFault:
		return now.Sub(fault.Since) < contentionShown
	// The event is looked for.
	case (fault.Kind == tokenstore.EventFault || fault.Kind == tokenstore.DefinitionFault) && fault.Attempts == 0:
		return now.Sub(fault.Since) < searchShown
	}
	return false
}

// lasting is a fault that also says for how long there has been one.
func lasting(fault *tokenstore.Fault) *tokenstore.Fault {
	if fault == nil {
		return nil
	}
	told := *fault
	told.Lasted = time.Since(fault.Since).Seconds()
	return &told
}

// lag is the age of the oldest event that waits, in seconds.
func (s *segmentRun) lag(now time.Time) float64 {
	if oldest, waits := s.member.Oldest(); waits {
		return age(oldest, now).Seconds()
	}
	return 0
}

// age is how long ago a time is; 0 for one that is still to come, or is infinite.
func age(recorded, now time.Time) time.Duration {
	if recorded.IsZero() {
		return 0
	}
	return max(0, now.Sub(recorded))
}

// report tells of a batch that has ended.
func (l *life) report(portions []portion, b batch, took time.Duration, err error) {
	s := portions[0].s
	last := b.events[len(b.events)-1]
	lag := age(last.RecordedAt, l.storeClock.now())
	l.metrics.batch(s.group.name, len(b.events), b.skipped, took, lag, err)
	if err == nil {
		s.group.rate.add(len(b.events), b.replayed())
	}
	if l.options.OnBatch != nil {
		l.options.OnBatch(Batch{Group: s.group.name, Segment: s.Token.Segment, Segments: len(portions), Events: len(b.events), Skipped: b.skipped,
			Position: last.Position, Took: took, Lag: lag, Err: err})
	}
}
