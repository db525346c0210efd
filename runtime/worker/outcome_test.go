package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// transaction is a kind of transaction that a worker makes.
type transaction struct {
	groups  string
	prepare func(w *world) // before any worker runs
	pods    string         // those that run before it is made
	when    pgproxy.When   // of the messages that have the server commit something
	provoke func(w *world)
	came    func(w *world) // waits for what the transaction is for
	// reclaims says that the worker has to claim the segment, of which there is one, again.
	reclaims bool
	// rewinds says that a replay is given up on the way, and the tokens lie behind the view.
	rewinds bool
}

const (
	viewOf       = "\n  - name: view\n    segments: %d" + view
	goViewOf     = "\n  - name: view\n    segments: %d\n    onError: {backoff: {initial: 10ms, max: 20ms}}\n    handler: {type: Go}"
	witnessedOf  = "\n  - name: view\n    segments: %d" + witnessed
	putToken     = `INSERT INTO "sluice".token AS t`
	deleteToken  = `DELETE FROM "sluice".token WHERE`
	takeBounds   = `DELETE FROM "sluice".replay_boundary WHERE tenant = $1 AND group_name = ANY`
	writeFailure = `INSERT INTO "sluice".failure`
	clearFailure = `DELETE FROM "sluice".failure`
)

// ran is true where a transaction has run statements with all the texts.
func ran(texts ...string) pgproxy.When {
	return func(m pgproxy.Message) bool { return m.Ran(texts...) }
}

// ranBut is true where a transaction has run a statement with the text, and none with any of the others.
func ranBut(text string, others ...string) pgproxy.When {
	return func(m pgproxy.Message) bool {
		for _, other := range others {
			if m.Ran(other) {
				return false
			}
		}
		return m.Ran(text)
	}
}

func released(m pgproxy.Message) bool {
	return m.Ran("advance(", "pg_notify") && !m.Ran("INTO stream_view")
}

// add writes an event into the view as the statement of the SQL handlers does.
func add(ctx context.Context, tx pgx.Tx, e handler.Event) error {
	var data struct{ N json.Number }
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO stream_view AS v (stream_id, events, chain) VALUES ($1, 1, md5($2))
		ON CONFLICT (stream_id) DO UPDATE SET events = v.events + 1, chain = md5(v.chain || excluded.chain)`, e.StreamID, string(data.N))
	return err
}

// addingUnless has the world's workers fold events by a function of Go, which fails where refuse says so.
func (w *world) addingUnless(refuse func(handler.Event) error) {
	w.handlers = map[string]handler.Handler{"view": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		if err := refuse(e); err != nil {
			return err
		}
		return add(ctx, tx, e)
	}, "Counted")}
}

func (w *world) appendSome() { w.appendTo(8, 2) }

// appendSeveral has events come to several segments at once, again and again: of a few times one at least finds one that shares.
func (w *world) appendSeveral() {
	for n := range 10 {
		w.appendAtOnce(8, n)
	}
}

// failing makes events fail the given number of times, once that is set.
func (w *world) failing(times *atomic.Int64) {
	w.addingUnless(func(handler.Event) error {
		if times.Add(-1) >= 0 {
			return errors.New("not now")
		}
		return nil
	})
}

func failsOnce() transaction {
	var times atomic.Int64
	return transaction{groups: fmt.Sprintf(goViewOf, 1), pods: "a",
		prepare: func(w *world) { times.Store(0); w.failing(&times) },
		provoke: func(w *world) { times.Store(1); w.appendTo(1, 1) },
		came:    func(w *world) { w.until("no failure to be left", `SELECT NOT EXISTS (SELECT FROM sluice.failure)`) }}
}

func replaying(when pgproxy.When) transaction {
	return transaction{groups: fmt.Sprintf(witnessedOf, 2), pods: "ab", when: when,
		provoke: func(w *world) { w.ask(tokenstore.ReplayRequest{ID: "fix"}) },
		came: func(w *world) {
			w.replay("fix", "complete", in(tokenstore.ReplayComplete))
			w.until("one reset", `SELECT count(*) = 1 FROM seen WHERE position IS NULL`)
			w.caughtUp()
			if w.flagged() == 0 {
				w.t.Error("vacuous: nothing was handled again")
			}
		}}
}

// abandoned is a replay that cannot go on, and is given up. What its handler has written stays.
func abandoned() transaction {
	return transaction{groups: fmt.Sprintf(goViewOf, 2), pods: "a", rewinds: true,
		when: ran(takeBounds, putToken),
		prepare: func(w *world) {
			w.addingUnless(func(e handler.Event) error {
				if e.Replay != nil {
					return errors.New("not again")
				}
				return nil
			})
			w.handlers["view"] = handler.WithReset(w.handlers["view"], func(context.Context, pgx.Tx, handler.Replay) error { return nil })
		},
		provoke: func(w *world) {
			request := tokenstore.ReplayRequest{ID: "stuck"}
			w.ask(request)
			w.replay("stuck", "running", in(tokenstore.ReplayRunning))
			w.until("an attempt", `SELECT EXISTS (SELECT FROM sluice.failure)`)
			request.State = tokenstore.ReplayToBeAbandoned
			w.ask(request)
		},
		came: func(w *world) { w.replay("stuck", "abandoned", in(tokenstore.ReplayAbandoned)) }}
}

// with sets what is special about one of several transactions that are alike.
func (k transaction) with(when pgproxy.When) transaction {
	k.when = when
	return k
}

func reshaping(from, to int, when pgproxy.When) transaction {
	return transaction{groups: fmt.Sprintf(viewOf, from), pods: "ab", when: when,
		provoke: func(w *world) { w.edit(fmt.Sprintf(viewOf, to)) },
		came:    func(w *world) { w.until(fmt.Sprint(to, " segments"), `SELECT count(*) = $1 FROM sluice.token`, to) }}
}

// transactions are all kinds that a worker makes, by what they do.
func transactions() map[string]transaction {
	return map[string]transaction{
		"batch of an SQL handler": {groups: fmt.Sprintf(viewOf, 1), pods: "a", reclaims: true,
			when: ran("advance(", "INTO stream_view"), provoke: (*world).appendSome},
		"batch of a Go handler": {groups: fmt.Sprintf(goViewOf, 1), pods: "a", reclaims: true,
			prepare: func(w *world) { w.addingUnless(func(handler.Event) error { return nil }) },
			when:    ran("advance(", "INTO stream_view"), provoke: (*world).appendSome},
		"shared batch of an SQL handler": {groups: sharing(fmt.Sprintf(viewOf, 4)), pods: "a", reclaims: true,
			prepare: func(w *world) { w.executors = 1 },
			when:    shared, provoke: (*world).appendSeveral},
		"shared batch of a Go handler": {groups: sharing(fmt.Sprintf(goViewOf, 4)), pods: "a", reclaims: true,
			prepare: func(w *world) { w.executors = 1; w.addingUnless(func(handler.Event) error { return nil }) },
			when:    shared, provoke: (*world).appendSeveral},
		"move of tokens at rest": {groups: fmt.Sprintf(viewOf, 1), pods: "a", reclaims: true,
			when: ranBut("advance(", "INTO stream_view", "pg_notify"),
			provoke: func(w *world) {
				if _, err := w.log.Append(context.Background(), "other", eventspostgres.Any, eventspostgres.NewEvent{Type: "Ignored"}); err != nil {
					w.t.Fatal(err)
				}
			}},
		"release": {groups: fmt.Sprintf(viewOf, 4), pods: "a",
			when: released, provoke: func(w *world) { w.start("b") },
			came: func(w *world) {
				w.until("two owners", `SELECT count(DISTINCT owner) = 2 FROM sluice.token WHERE owner <> 0`)
			}},
		"release at the end": {groups: fmt.Sprintf(viewOf, 4), pods: "ab",
			when: released, provoke: func(w *world) { w.drains["a"]() },
			came: func(w *world) { w.until("one owner", `SELECT count(DISTINCT owner) = 1 FROM sluice.token`) }},
		"claim": {groups: fmt.Sprintf(viewOf, 4),
			when: ran("SET epoch = t.epoch + 1, version = t.version + 1, owner = $3"), provoke: func(w *world) { w.start("a") }},
		"recording of a failure": failsOnce().with(ran(writeFailure)),
		"end of a failure":       failsOnce().with(ranBut(clearFailure, putToken)),
		"split":                  reshaping(2, 3, ranBut(putToken, deleteToken)),
		"merge":                  reshaping(2, 1, ran(putToken, deleteToken)),
		"beginning of a reset":   replaying(ran("phase = 'Resetting'")),
		"reset":                  replaying(ran("reset_at = clock_timestamp()")),
		"end of a replay":        replaying(ranBut(takeBounds, putToken)),
		"abandoning of a replay": abandoned(),
		"end of a failed reset": {groups: fmt.Sprintf(strings.Replace(witnessedOf, "TRUNCATE stream_view;", "TRUNCATE stream_view; SELECT 1 / 0;", 1), 2), pods: "a",
			when:    ran("phase = $2, reason = $3, message = $4"),
			provoke: func(w *world) { w.ask(tokenstore.ReplayRequest{ID: "fix"}) },
			came:    func(w *world) { w.replay("fix", "failed", in(tokenstore.ReplayFailed)) }},
		"plan": {groups: fmt.Sprintf(viewOf, 4), pods: "a", when: ran("plan_renewed_at = clock_timestamp()", `INSERT INTO "sluice".assignment`),
			provoke: func(w *world) { w.start("b") },
			came: func(w *world) {
				w.until("two owners", `SELECT count(DISTINCT owner) = 2 FROM sluice.token WHERE owner <> 0`)
			}},
		"registration": {groups: fmt.Sprintf(viewOf, 4), when: ran(`INSERT INTO "sluice".worker`), provoke: func(w *world) { w.start("a") }},
		"setup":        {groups: fmt.Sprintf(viewOf, 4), when: ran("CREATE TABLE IF NOT EXISTS stream_view"), provoke: func(w *world) { w.start("a") }},
		"heartbeat":    {groups: fmt.Sprintf(viewOf, 4), pods: "a", when: ran("SET lease_until = "), provoke: (*world).appendSome},
		"page of events": {groups: fmt.Sprintf(viewOf, 1), pods: "a", reclaims: true,
			when: ran("pg_snapshot_xip"), provoke: (*world).appendSome},
	}
}

// TestAnUnknownOutcomeIsResolvedRight loses the connection on which a worker has the server commit something: before the message
// that does it, behind it, and with the answer to it. The worker cannot tell these apart. Whatever has become of the transaction, it
// goes on by itself, and each event is handled once.
func TestAnUnknownOutcomeIsResolvedRight(t *testing.T) {
	t.Parallel()
	for name := range transactions() {
		for _, do := range []pgproxy.Action{pgproxy.CutBefore, pgproxy.CutAfter, pgproxy.Swallow} {
			t.Run(strings.ReplaceAll(fmt.Sprint(name, "/", do), " ", "-"), func(t *testing.T) {
				t.Parallel()
				for attempt := 1; !resolves(t, transactions()[name], do); attempt++ {
					if attempt == 3 {
						t.Fatal("vacuous: each time the transaction failed by itself")
					}
				}
			})
		}
	}
}

// resolves reports whether the transaction came to be decided at all: on a busy machine it may meet others that hold its locks for too long.
func resolves(t *testing.T, k transaction, do pgproxy.Action) bool {
	t.Helper()
	w, proxy := newWorldBehindProxy(t, k.groups)
	if k.prepare != nil {
		k.prepare(w)
	}
	w.appendSome()
	for _, pod := range k.pods {
		w.start(string(pod))
	}
	if k.pods != "" {
		w.caughtUp()
		w.until("all pods to have a share", `SELECT count(DISTINCT owner) = $1 FROM sluice.token WHERE owner <> 0`, len(k.pods))
		w.atRest()
	}
	if !k.rewinds {
		defer w.watch()()
	}
	before := w.epochs()
	trap := proxy.Set(pgproxy.Rule{When: func(m pgproxy.Message) bool { return m.Commits() && k.when(m) }, Do: do})
	k.provoke(w)
	if answer := trap.WaitSettled(); !expected(do, answer) {
		t.Logf("the server has answered %+v", answer)
		return false
	}
	if k.came != nil {
		k.came(w)
	}
	w.caughtUp()
	w.atRest()
	if k.reclaims {
		w.until("the segment to be claimed again", `SELECT sum(epoch) > $1 FROM sluice.token`, before)
	}
	w.appendSome()
	w.caughtUp()
	w.consistent()
	return true
}

// TestAnAttemptWaitsForWhoeverTakesTheToken holds the commit that takes a token from its owner, and clears its failure, while that
// owner records another attempt.
func TestAnAttemptWaitsForWhoeverTakesTheToken(t *testing.T) {
	t.Parallel()
	k := abandoned()
	w, proxy := newWorldBehindProxy(t, k.groups)
	k.prepare(w)
	w.appendSome()
	w.start("a")
	w.caughtUp()
	taken := proxy.Set(pgproxy.Rule{Hold: true, When: func(m pgproxy.Message) bool { return m.Commits() && k.when(m) }})
	k.provoke(w)
	taken.WaitFired()
	w.until("an attempt to wait", `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO "sluice".failure%')`)
	taken.Release()
	k.came(w)
	w.atRest()
	w.appendSome()
	w.caughtUp()
	w.consistent()
}

// expected reports whether a server's answer shows that a connection was lost where it should have been. What reaches the server may
// meet others there: a worker that is quick to claim again fences its own batch off, and whoever takes over from it has its
// connections ended.
func expected(do pgproxy.Action, a pgproxy.Answer) bool {
	ended := a.Code == "57P01"
	switch do {
	case pgproxy.CutBefore:
		return !a.Given
	case pgproxy.CutAfter:
		return a.Given || ended
	default:
		return a.OK() || ended
	}
}

// newWorldBehindProxy makes a world whose workers reach the database by way of a proxy. What the test does goes past it.
func newWorldBehindProxy(t *testing.T, groups string) (*world, *pgproxy.Proxy) {
	t.Helper()
	w := newWorld(t, groups)
	w.exec(`CREATE TABLE stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL, chain text NOT NULL)`)
	proxy := pgproxy.Start(t, w.url)
	w.url = proxy.URL()
	return w, proxy
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// epochs is the sum over all tokens.
func (w *world) epochs() (sum int64) {
	w.t.Helper()
	if err := w.pool.QueryRow(context.Background(), `SELECT sum(epoch) FROM sluice.token`).Scan(&sum); err != nil {
		w.t.Fatal(err)
	}
	return sum
}
