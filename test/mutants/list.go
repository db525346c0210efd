package main

import "slices"

// mutant is a mistake that somebody could make, as a change of the source, and the tests that have to catch it.
type mutant struct {
	name  string
	edits []edit
	test  test
}

// edit replaces a text that occurs in a file once. Files are named from the root of the repository.
type edit struct{ file, old, new string }

// test is a package, and which of its tests to run. Where there are properties among them, what they find is not to be kept.
type test struct {
	pkg, run string
	rapid    bool
}

var (
	interleavings = test{"./tokenstore/protocol", "TestAllInterleavings", true}
	boundaries    = test{"./tokenstore/protocol", "TestBoundaries", true}
	conformance   = test{"./tokenstore/postgres", "TestTheStoreKeepsItsPromises|TestTheStoreGoesInStep", true}
	scoping       = test{"./tokenstore/postgres", "OtherStores|SameStore|OneSchema|Former", false}
	reading       = test{"./eventsource/postgres", "(ReadersGet|LargeLate)/own_table$", true}
	rebasing      = test{"./eventsource/postgres", "AcrossADump/own", false}
	inOrder       = test{"./eventsource/postgres", "TestEventsAreGivenInTheOrder", true}
	gaps          = test{"./eventsource/postgres", "TestGapsAreClosedOnly", true}
	altered       = test{"./eventsource/postgres", "TestATableThatIsAltered|TestRowsThatAreHidden", false}
	elsewhere     = func(tests string) test { return test{"./eventsource/postgres", tests, false} }
	unreadable    = test{"./runtime/worker", "TestAnEventThatCannotBeRead", false}
	replaying     = test{"./runtime/worker", "Replay", false}
	sequencing    = test{"./runtime/worker", "Sequencing", false}
	crashing      = test{"./runtime/worker", "TestACrashOfTheServer.*/SQL", false}
	syncing       = test{"./runtime/worker", "TestOnlyBatchesOfABacklog", false}
	failing       = test{"./runtime/worker", "TestABatchThatFails", false}
	sharing       = test{"./runtime/worker", "NearTheTailShare/declared|FailsHoldsUp|FenceLosesOnly/SQL", false}
	rounds        = test{"./runtime/handler", "TestWithinASequence", true}
	byValue       = test{"./runtime/handler", "TestAStatementSeesTheSameEventsEitherWay/Sluice's_table", true}
	past          = test{"./runtime/handler", "TestUsersCodeCannotEndItsTransaction/Set/pgconn_ExecBatch", false}
	ending        = test{"./runtime/handler", "TestUsersCodeCannotEndItsTransaction/Set/Exec_(END|several)", false}
	queuedFence   = test{"./tokenstore/postgres", "TestTheFenceOfQueuedStatementsKnowsItsTransaction", false}
	foreign       = test{"./runtime/handler", "TestTheFencingCheckKnowsItsTransaction", false}
	leaking       = test{"./tokenstore/postgres", "TestNothingIsLeftForTheNextHandler", false}
	rollouts      = test{"./runtime/worker", "TestARolloutMovesEachSegmentOnce|TestWhatAWorkerDoes", true}
	naming        = test{"./planner", "TestAPlanNamesAWorker", false}
	layouts       = test{"./runtime/worker", "TestNobodyRunsWithALayout", false}
	unended       = test{"./runtime/worker", "TestWhateverAHandlerDoesItsEventIsNamed/it_ends_its_connection", false}
	keptConn      = test{"./runtime/handler", "TestAHandlerCannotUseItsConnectionAfterItsBatch", false}
	notBegun      = test{"./runtime/handler", "TestNothingIsSentBeforeTheTransaction", false}
	standsIn      = test{"./runtime/worker", "TestGroupsGoOnBesideCallsThatLast", false}
	finishing     = test{"./runtime/worker", "TestACallIsFinishedOnce", false}
	hanging       = test{"./runtime/worker", "TestWhateverAHandlerDoesItsEventIsNamed/it_ignores_its_context", false}
	misbehaving   = func(rows string) test { return test{"./controllers", "TestWhateverAHandlerDoes/" + rows, false} }
	distances     = test{"./runtime/feed", "TestFeedTellsByTheSourcesDistances", false}
	spacings      = test{"./eventsource/postgres", "TestPagesSayHowFarApart", false}
	lateFailures  = test{"./runtime/worker", "TestAttemptsAtALateEvent", false}
	clocks        = test{"./test/faults", "ByTheDatabasesClock", false}
)

const (
	fence    = "tokenstore/postgres/migrations/0015_advance.sql"
	tokenSQL = "tokenstore/postgres/token.go"
	resetSQL = "tokenstore/postgres/reset.go"
	reshapes = "tokenstore/postgres/reshape.go"
	scopes   = "tokenstore/postgres/scope.go"
	owner    = "tokenstore/owner.go"
	tokens   = "tokenstore/protocol/token.go"
	bounds   = "tokenstore/protocol/boundary.go"
	holdings = "tokenstore/protocol/holding.go"
	rebased  = "eventsource/postgres/rebase.go"
	marks    = "runtime/worker/boundary.go"
	shares   = "runtime/worker/share.go"
	sqlCalls = "runtime/handler/sql.go"
	sqlForms = "runtime/handler/events.go"
	gapPage  = "eventsource/postgres/gappage.go"
	gapOrder = "eventsource/postgres/gaporder.go"
	gapFence = "eventsource/postgres/fence.go"
)

// seeds are those of make test. They have to catch these mistakes too, each as a mistake of its own.
var (
	seeds     = test{"./test/simulation", "TestSeeds", false}
	simulated = []string{
		"a merge takes both halves to the faster one",
		"a split forgets the replay",
		"a merge goes on with the lower half's epoch",
	}
)

// all are the mistakes with the tests that have to catch them.
func all() []mutant {
	made := slices.Clone(mutants)
	for _, m := range mutants {
		if slices.Contains(simulated, m.name) {
			m.name, m.test = m.name+", in the simulation", seeds
			made = append(made, m)
		}
	}
	return made
}

// apartFromToken commits a batch's rows by themselves.
var apartFromToken = edit{tokenSQL, "	batch.QueuedQueries = append(batch.QueuedQueries, users.QueuedQueries...)\n",
	"	if err := s.pool.SendBatch(ctx, users).Close(); err != nil {\n		return err\n	}\n"}

// mutants are the mistakes that we are afraid of.
var mutants = []mutant{
	{"the fence does not look at the epoch", []edit{{fence, "AND t.epoch = p_epochs[i] AND t.version = p_versions[i];", "AND t.version = p_versions[i];"}}, conformance},
	{"the fence does not look at the version", []edit{{fence, "AND t.epoch = p_epochs[i] AND t.version = p_versions[i];", "AND t.epoch = p_epochs[i];"}}, conformance},
	{"the protocol's fence does not look at the version", []edit{{tokens, "t.Epoch != a.Epoch || t.Version != a.Version", "t.Epoch != a.Epoch"}}, interleavings},
	{"the fence lets some of several tokens pass", []edit{{fence, "IF missed > 0 THEN", "IF missed = cardinality(p_segments) THEN"}}, conformance},
	{"the token moves outside of the batch's transaction", []edit{apartFromToken}, conformance},
	{"a layout that is covered twice is run", []edit{{"segment/layout.go", "if owner[slice] != nobody {", "if false {"}}, layouts},
	{"what is held of a broken layout goes on", []edit{{"runtime/worker/ownership.go", "			if held {\n				d.release = append(d.release, t.Key)\n			}\n		case held && assignee", "		case held && assignee"}}, layouts},
	{"a segment is released before its batch has ended", []edit{{holdings, "now = !h.leaving && !h.busy && !h.gone", "now = !h.leaving && !h.gone"}}, interleavings},
	{"a claim does not look at the epoch", []edit{{tokenSQL, "USING (group_name, segment, epoch)", "USING (group_name, segment)"}}, conformance},
	{"a claim leaves the epoch as it is", []edit{{tokenSQL, "SET epoch = t.epoch + 1, version = t.version + 1, owner = $3", "SET version = t.version + 1, owner = $3"}}, conformance},
	{"segments are claimed in the middle of a reset", []edit{{tokenSQL, " AND NOT g.resetting\n", "\n"}}, conformance},
	{"older definitions claim after a reset", []edit{{tokenSQL, " AND g.min_definition <= $7", ""}}, conformance},
	{"after a rebase all tokens cover what some lacked", []edit{{rebased, "upTo = n.upTo[i]", "upTo = n.all"}}, rebasing},
	{"after a rebase late events look like all others", []edit{{rebased, "n.events[strconv.FormatUint(xid, 10)] = strconv.FormatUint(next, 10)", "n.events[strconv.FormatUint(xid, 10)] = strconv.Itoa(everyone)"}}, rebasing},
	{"a split takes both halves to the slower one", []edit{{tokens, "Within(t.Parts, s)", "[]progress.Part{{Segment: s, Progress: Lowest(t.Parts)}}"}}, interleavings},
	{"a merge takes both halves to the faster one", []edit{{tokens, "Joined(s, append(append([]progress.Part{}, low.Parts...), high.Parts...))",
		"[]progress.Part{{Segment: s, Progress: progress.Progress{Position: max(low.Parts[0].Progress.Position, high.Parts[0].Progress.Position)}}}"}}, interleavings},
	{"a merge goes on with the lower half's epoch", []edit{{tokens, "max(low.Epoch, high.Epoch)", "low.Epoch"}}, interleavings},
	{"halves that have met keep their parts", []edit{{tokenSQL, "if a.WasParted || len(a.Parts) > 1 {", "if len(a.Parts) > 1 {"}}, conformance},
	{"a split forgets what has failed", []edit{{reshapes, "		s.queueBoth(batch, low.Key, high.Key)\n", ""}}, conformance},
	{"a merge forgets what has failed in the upper half", []edit{{reshapes, "		s.queueFirst(batch, group, low, high)\n", ""}}, conformance},
	{"a reset keeps the epoch", []edit{{resetSQL, "SET epoch = epoch + 1, version = version + 1, owner = 0", "SET owner = 0"}}, conformance},
	{"a reset is done again", []edit{{resetSQL, "err == nil && phase != tokenstore.ReplayResetting:", "err == nil && phase == tokenstore.ReplayComplete:"}}, conformance},
	{"the groups of a failed reset cannot be claimed", []edit{{resetSQL, "SET replay = NULL, resetting = false WHERE tenant = $1 AND replay = $2", "SET replay = NULL WHERE tenant = $1 AND replay = $2"}}, conformance},
	{"a reset goes on when its handler has failed", []edit{{resetSQL, "if err := tx.verdict(err); err != nil {", "if err := tx.verdict(err); err != nil && ctx.Err() != nil {"}}, conformance},
	{"a reset that was ended meanwhile commits", []edit{{resetSQL, `if err := s.stillDue(ctx, own, processor, r, "FOR NO KEY UPDATE"); err != nil {`, `if err := s.agreed(ctx, own, processor, r.Definition); err != nil {`}}, conformance},
	{"a second reset forgets the first one's boundary", []edit{{bounds, "if len(before) == 0 {", "if len(before) >= 0 {"}}, boundaries},
	{"an abandoned replay forgets what it has handled", []edit{{bounds, "union, err := n.Union(b.Progress, p.Progress)", "union, err := n.Union(b.Progress, b.Progress)"}}, interleavings},
	{"a split forgets the replay", []edit{{marks, "if !bound.Segment.Includes(t.Range()) && !t.Range().Includes(bound.Segment) {", "if bound.Segment != t.Range() {"}}, replaying},
	{"an event counts as a replay by its position", []edit{{marks, "there && r.parts[i].Coverage.Covers(e) {", "there && e.Position <= r.parts[i].Coverage.Position() {"}}, replaying},
	{"a claim does not look at the sequencing", []edit{{tokenSQL, "AND g.sequencing || '/' || g.hash = c.sequencing", ""}}, conformance},
	{"replays are told by the new sequencing's hash", []edit{{marks, "	if r.moved {", "	if r.moved && r.by.Type == segment.Broadcast {"}}, sequencing},
	{"epochs begin anew after a drop", []edit{{"tokenstore/postgres/store.go", "progress.Position, progress.State, floor+1)", "progress.Position, progress.State, floor-floor+1)"}}, conformance},
	{"a full page closes gaps that it has not looked at", []edit{{gapPage, "upward(q.tail+1)).upTo(end)", "upward(q.tail+1)).upTo(maxPosition)"}}, gaps},
	{"all that a page has looked at is settled", []edit{{gapPage, "empty.meet(q.proved.settled)", "empty.upTo(seen.last())"}}, gaps},
	{"an event does not wait for one that is beyond the page", []edit{{gapOrder, "covered.has(r.before) || inPage && done[j]", "covered.has(r.before) || !inPage || done[j]"}}, inOrder},
	{"an event does not wait for one above it in the page", []edit{{gapOrder, "covered.has(r.before) || inPage && done[j]", "covered.has(r.before) || inPage"}}, inOrder},
	{"positions of events that wait are closed", []edit{{gapPage, "a.dead.union(positionsOf(a.at))", "a.dead.union(seen)"}}, inOrder},
	{"an event waits only for what one of the readers lacks", []edit{{gapPage, "meet = meet.meet(c.set)", "meet = meet.union(c.set)"}}, inOrder},
	{"what a page read of an altered table is believed", []edit{{"eventsource/postgres/page.go", "if about[1] != p.shape {", "if about[1] == \"\" {"}}, altered},
	{"a sequence may go back", []edit{{"eventsource/postgres/gapread.go", "if p.mark < c.Position() {", "if p.mark < 0 {"}}, altered},
	{"a table that was emptied and restarted is read on", []edit{{"eventsource/postgres/tablewatch.go", "was.file != is.file && was.sequences[0].file != is.sequences[0].file", "was.file == 0"}}, altered},
	{"events that are not on the disk are given out", []edit{{"eventsource/postgres/origin.go", "o.durable < o.written;", "false;"}}, elsewhere("TestWhatIsNotOnTheDisk")},
	{"witnesses are not looked for", []edit{{"eventsource/postgres/witness.go", "if c.witness != (witness{}) && !missing[c.witness] {", "if false {"}}, elsewhere("TestASourceThatWasSetBack/own_table")},
	{"another event may be in the place of a witness", []edit{{"eventsource/postgres/witness.go", "delete(missing, found)", "maps.DeleteFunc(missing, func(w witness, _ bool) bool { return w.position == found.position })"}}, elsewhere("TestASourceThatWasSetBack/own_table")},
	{"a witness may be gone", []edit{{"eventsource/postgres/witness.go", "return at, lostEvents(w.position, \"there is none\")", ""}}, elsewhere("WithoutTheNewestEvent")},
	{"positions that were taken count as read", []edit{{"eventsource/postgres/separate.go", "if s.events.table == nil { // the highest", "if false { // the highest"}}, elsewhere("TestASourceThatWasSetBack/own_table")},
	{"what two have in common has the later witness", []edit{{"eventsource/postgres/separate.go", "if later(a, b) == a {", "if later(a, b) != a {"}}, elsewhere("TestASourceThatWasSetBack/own_table")},
	{"a source that stays away has its segments claimed for each try", []edit{{"runtime/worker/unreadable.go", " && !l.forgotten.Swap(true)", ""}}, test{"./runtime/worker", "TestAWorkerGoesOnWithoutTheDatabase", false}},
	{"coverages in memory outlive the server of a separate source", []edit{{"eventsource/postgres/separate.go", "case c.server != \"\" && c.server != at.server:", "case false:"}}, elsewhere("TestASourceIsReadOnAfterItsServer/own_table")},
	{"row level security may hide rows", []edit{{"eventsource/postgres/plan.go", "func (s *Source) guarded() bool { return s.events.table != nil || ", "func (s *Source) guarded() bool { return "}}, altered},
	{"segments are near by positions", []edit{{"runtime/feed/member.go", "m.lowest().Distance(members[i-1].lowest()) > near", "members[i-1].lowest().Position()-m.lowest().Position() > near"}}, distances},
	{"segments wait for those before them only", []edit{{"runtime/feed/read.go", "at.Distance(last) <= near && first.Distance(at) <= near", "first.Distance(at) <= near && last.Distance(at) > 0"}}, distances},
	{"the tail is near by positions", []edit{{"runtime/feed/read.go", "m.lowest().Distance(f.tail) <= f.near()", "f.tail.Position()-m.lowest().Position() <= f.near()"}}, distances},
	{"pages of a table with gaps do not say how far apart events are", []edit{{"eventsource/postgres/gapread.go", "Spacing: eventsource.Spacing(events), ", ""}}, spacings},
	{"an event without a key goes to one segment", []edit{{"runtime/feed/sort.go", "event.Unreadable != nil && !event.Unreadable.HasKey(x.by)", "false"}}, unreadable},
	{"an event that cannot be read is handled", []edit{{"runtime/worker/executor.go", "if err := unreadable(c.events); err != nil {", "if err := unreadable(nil); err != nil {"}}, unreadable},
	{"who is prepared has ended", []edit{{gapFence, "gone = gone || !f.last[id].prepared", "gone = false"}}, gaps},
	{"who is still now has always been", []edit{{gapFence, "was != h", "was.prepared != h.prepared"}}, gaps},
	{"who has been still since a round ago has taken nothing since the one before", []edit{{gapFence, "was, there := f.older[id]", "was, there := f.last[id]"}}, gaps},
	{"rows of a backlog commit apart from their token", []edit{apartFromToken}, crashing},
	{"batches without a backlog do not wait for the disk", []edit{{shares, "advance.Unsynced = s.member.Behind()", "advance.Unsynced = true"}}, syncing},
	{"batches that have appended events do not wait for the disk", []edit{{"tokenstore/postgres/settings.go", "WHERE txid = pg_current_xact_id_if_assigned()) IS NOT NULL", "WHERE false) IS NOT NULL"}}, syncing},
	{"a former sequencing is told without contents", []edit{{"runtime/worker/claim.go", "c.pages.NeedContents() //", "_ = c.pages //"}}, sequencing},
	{"late events of transactions that ran are not looked for", []edit{{"eventsource/postgres/read.go", "WHERE pg_visible_in_snapshot(ended.txid, pg_current_snapshot()))", "WHERE false)"}}, reading},
	{"late events of transactions that had not begun are not looked for", []edit{{"eventsource/postgres/read.go", "WHERE e.{{txid}} >= pg_snapshot_xmax(band.snapshot::pg_snapshot) AND", "WHERE false AND"}}, reading},
	{"a batch's failure is laid on the segment that was taken first", []edit{{"runtime/worker/executor.go", "alone := portions[0].s //", "alone := first //"}}, failing},
	{"of a shared batch only the first segment is settled", []edit{{"runtime/worker/executor.go", "	for _, p := range portions {\n		p.s.advanced(p.advance, p.b.after)",
		"	for _, p := range portions[:1] {\n		p.s.advanced(p.advance, p.b.after)"}}, sharing},
	{"after a failure of a shared batch its segments share again", []edit{{shares, "p.s.goAlone(len(p.b.events))", "p.s.goAlone(0)"}}, sharing},
	{"a fence takes all segments of a shared batch", []edit{{shares, "unknown := !fenced && ", "unknown := "}}, sharing},
	{"rounds of statements by stream", []edit{{sqlCalls, "	last := map[uint32]int{}", "	last := map[string]int{}"},
		{sqlCalls, "last[event.Hash]; there", "last[event.StreamID]; there"}, {sqlCalls, "last[event.Hash] = final", "last[event.StreamID] = final"}}, rounds},
	{"by value, data and metadata are swapped", []edit{{sqlForms, "data[i], metadata[i] = payload(e.Data), payload(e.Metadata)",
		"metadata[i], data[i] = payload(e.Data), payload(e.Metadata)"}}, byValue},
	{"by value, events are numbered from the last one", []edit{{sqlForms, "int64(i+1)", "int64(len(events)-i)"}}, byValue},
	{"SQL gets events by value from pages without payload", []edit{{"runtime/handler/kind.go", "Payload: ByValue(events), ", ""}},
		test{"./runtime/worker", "TestPagesLeavePayloadOut", false}},
	{"a commit in a handler passes", []edit{{"tokenstore/postgres/guard.go", "command != \"\" {", "command == \"nothing\" {"}}, ending},
	{"a write past pgx's own messages passes", []edit{{"tokenstore/postgres/guard.go", "	if !g.given {", "	if g.out != nil {"}}, past},
	{"the fencing check does not look which transaction it is in", []edit{{"tokenstore/postgres/settings.go", "current_setting('sluice.batch', true) OPERATOR(pg_catalog.=) $9", "current_setting('sluice.batch', true) <> $9 OR true"}}, foreign},
	{"the fencing check of queued statements does not look which transaction it is in", []edit{{"tokenstore/postgres/settings.go", "current_setting('transaction_deferrable') OPERATOR(pg_catalog.=) 'on'", "current_setting('transaction_deferrable') <> ''"}}, queuedFence},
	{"what a handler sets is left for the next one", []edit{{"tokenstore/postgres/clean.go", "batch.Queue(clean)", "batch.Queue(`SELECT 1`)"}}, leaking},
	{"what a handler that fails sets is left for the next one", []edit{{"tokenstore/postgres/clean.go", "clean = \"rollback; \" + clean", "clean = \"rollback\""}}, leaking},
	{"a worker of an older definition adopts before those of the wanted one", []edit{{"runtime/worker/ownership.go", "return definition < wanted && slices.ContainsFunc", "return definition < 0 && slices.ContainsFunc"}}, rollouts},
	{"a worker is ready by the deletion costs of a plan before it had its share", []edit{{"runtime/worker/standing.go", "r.plan == 0 || !slices.Equal", "r.plan == 0 || false && !slices.Equal"}}, rollouts},
	{"a plan names workers that have not reported their groups", []edit{{"planner/planner.go", "w.Alive && len(w.Report.Groups) > 0 && standing", "w.Alive && standing"}}, naming},
	{"a handler may use its connection after its batch", []edit{{"tokenstore/postgres/guard.go", "case g.resting && !harmless(p):", "case g.resting && len(p) == 0:"}}, keptConn},
	{"users' code may write before its batch's transaction", []edit{{"tokenstore/postgres/guard.go", "case !ours && !g.begun:", "case !ours && g.conn == nil:"}}, notBegun},
	{"executors whose calls last get no stand-in", []edit{{"runtime/worker/standin.go", "for range l.runnable.handOver(now) {", "for range l.runnable.handOver(now) * 0 {"}}, standsIn},
	{"an abandoned call goes on when it ends", []edit{{"runtime/worker/call.go", "	if !l.abandoned.end(c) {\n		return false\n	}\n	finish(err)", "	l.abandoned.end(c)\n	finish(err)"}}, finishing},
	{"a token passes a failed event by its position", []edit{{"runtime/worker/segment.go", "parts.Cover(&eventsource.Event{Position: f.Position, Mark: f.EventMark})", "parts[0].Coverage.Position() >= f.Position"}}, lateFailures},
	{"the transaction of a failed event is not stored", []edit{{"runtime/worker/failure.go", "EventMark: f.event.mark, ", ""}}, lateFailures},
	{"a token that has passed a failed event is not written", []edit{{"runtime/worker/move.go", " || s.isBeyondFailure(s.parts) {", " {"}}, lateFailures},
	{"a suspect segment's call has no mark", []edit{{"runtime/worker/suspect.go", "return l.store.Mark(ctx, s.Token.Epoch, s.Token.Version, m)", "return nil"}}, unended},
	{"a call that ignores its context is waited for", []edit{{"runtime/worker/call.go", "if !l.abandoned.add(g.name, c) {", "if c != nil {"}}, hanging},
	{"the worker's clock says how long its lease runs", []edit{
		{"tokenstore/postgres/directory.go", "SET lease_until = clock_timestamp() + $3::interval, state = $4", "SET lease_until = $3::timestamptz, state = $4"},
		{"tokenstore/postgres/directory.go", "w.Incarnation, w.Nonce, tokenstore.TimingOf(w.Lease).Lease, w.State, w.Report,", "w.Incarnation, w.Nonce, time.Now().Add(tokenstore.Lease), w.State, w.Report,"},
	}, clocks},
	{"a group is taken over without consent", []edit{{owner, "slices.Contains(o.TakeOverFrom, from.String())", "slices.Contains(append(o.TakeOverFrom, from.String()), from.String())"}}, conformance},
	{"another installation declares a processor of the same name", []edit{{owner, "(row.Installation == \"\" || o.Installation == row.Installation)", "(row.Installation == \"\" || o.Installation != \"\")"}}, conformance},
	{"a takeover does not fence the former owner", []edit{{"tokenstore/postgres/store.go", "if len(taken) == 0 {", "if len(taken) >= 0 {"}}, conformance},
	{"a new owner's definitions count on from the former owner's", []edit{{"tokenstore/postgres/store.go", "ELSE 0 END", "ELSE g.min_definition END"}}, conformance},
	{"workers of another installation are let in", []edit{{"tokenstore/postgres/migrations/0012_scope.sql", "NEW.installation <> owner", "NEW.installation = '-'"}}, conformance},
	{"the workers of a former owner go on", []edit{{"tokenstore/postgres/directory.go", "AND installation <> $2 AND (installation <> '' OR $3)", "AND installation <> $2 AND installation = '-' AND $3"}}, conformance},
	{"session locks have no schema", []edit{{scopes, "classOf(\"session/\" + schema)", "classOf(\"session/\" + schema[:0])"}}, scoping},
	{"backlog permits have no schema", []edit{{scopes, "classOf(\"turn/\" + schema)", "classOf(\"turn/\" + schema[:0])"}}, scoping},
	{"locks of transactions have no schema", []edit{{scopes, "\"sluice/\" + schema + \"/\" + kind", "\"sluice/\" + schema[:0] + \"/\" + kind"}}, scoping},
	{"connections of every store have the same name", []edit{{scopes, "concat_ws('/', h.store_id, h.tableoid, d.oid)", "concat_ws('/', h.store_id)"}}, scoping},
	{"a batch of several is tried again whole when the definition fails", []edit{{"runtime/failure/failure.go", "case tokenstore.EventFault, tokenstore.DefinitionFault:", "case tokenstore.EventFault:"}}, test{"./runtime/failure", "TestDecide", true}},
	{"a dropped processor leaves another one's group in its reset", []edit{{"tokenstore/postgres/ledger.go", "r.processor = $2 AND r.phase = 'Resetting'`", "r.processor = $2 AND r.phase = 'Reset'`"}}, conformance},
	{"an event that hangs is searched by halving", []edit{{"runtime/worker/size.go", "b.left, b.most, b.of, b.patience = events, 1, events, took", "b.left = events"}}, test{"./runtime/worker", "TestAnEventThatHangsIsFoundAtTheSecondTimeLimit", false}},
	{"events that are hidden from a statement are passed over", []edit{{"eventsource/postgres/mapping.go", "CASE WHEN pg_catalog.row_security_active(%s::pg_catalog.regclass)", "CASE WHEN false AND pg_catalog.row_security_active(%s::pg_catalog.regclass)"}}, test{"./runtime/worker", "TestAStatementThatWouldNotSeeItsEventsFails", false}},
	{"users' code can say that its batch was fenced off", []edit{{"runtime/worker/failure.go", "errors.Is(err, tokenstore.ErrFenced) && !handler.BeforeCommit(err)", "errors.Is(err, tokenstore.ErrFenced)"}}, misbehaving("returns_that_it_is_fenced")},
	{"users' statements can say that their batch was fenced off", []edit{{tokenSQL, "		takeBack(ctx, conn.Conn(), guard, s.cleaning, err)\n		return err\n", "		takeBack(ctx, conn.Conn(), guard, s.cleaning, err)\n		return fenced(err)\n"}}, misbehaving("raises_SL001/SQL_each")},
	{"results are read when the commit is on its way", []edit{{"runtime/handler/handler.go", "func(q *pgx.QueuedQuery) bool { return q.Fn != nil }", "func(q *pgx.QueuedQuery) bool { return false }"}}, misbehaving("finds_a_result_wrong")},
	{"a commit that was refused may have happened", []edit{{"runtime/handler/fault.go", " ||\n		errors.Is(err, tokenstore.ErrManagedTransaction) ||", " ||"}}, test{"./runtime/handler", "TestBeforeCommitHolds", false}},
	{"abandoned calls keep other groups' connections", []edit{{"runtime/backend/postgres.go", "{&c.batches, store, needs.Batches + needs.Abandoned, nil}", "{&c.batches, store, needs.Batches / 2, nil}"}}, misbehaving("ignores_its_context/Go_set")},
	{"an outage of the source is one of the store", []edit{{"controllers/stores/source.go", "return is || errors.Is(err, errSourcePending)", "return is && errors.Is(err, errSourcePending)"}}, test{"./controllers/stores", "TestASourceThatWasNeverReached", false}},
	{"events of another database are read in the store's", []edit{{"controllers/stores/postgres/postgres.go", "if declared.Postgres != nil {", "if declared.Postgres != nil && l.schema == \"\" {"}}, test{"./controllers/stores", "TestLagIsThatOfTheSourcesDatabase", false}},
	{"contention that lasts is not reported", []edit{{"controllers/stores/facts.go", "stops(fault) || fault.Lasted", "stops(fault) || fault.Kind == tokenstore.InfrastructureFault && fault.Lasted"}}, misbehaving("cannot_be_serialized/SQL_each")},
}
