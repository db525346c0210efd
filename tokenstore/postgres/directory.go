package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/tokenstore"
)

// holdsLock is true for a worker w that holds a session lock. In session_lock older workers find
// those alone whose lock has the key of theirs; of the others they see the lease.
const holdsLock = `(w.session_lock OR w.lock_class IS NOT NULL)`

// alive is true for a worker w whose lease runs and which, where it holds a session lock, still holds it: the lock of a
// killed process is gone in milliseconds. For three seconds after the server's start everybody counts as alive who did
// lately: whoever connects first must not take everything. Shared locks of the key are those of watchers.
const alive = `(w.state <> 'Ended' AND (
	  clock_timestamp() < pg_postmaster_start_time() + interval '3 s' AND w.lease_until > clock_timestamp() - interval '10 min'
	  OR w.lease_until > clock_timestamp() AND (NOT ` + holdsLock + ` OR EXISTS (
	SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = coalesce(w.lock_class, 5358542)::oid
	   AND l.objid = (w.incarnation & 2147483647)::oid AND l.granted AND l.mode = 'ExclusiveLock'
	   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())))))`

// Directory is a tokenstore.Directory in a schema of a PostgreSQL database.
type Directory struct {
	pool   *pgxpool.Pool
	schema string // quoted
	notify string
	live   string
	class  int32 // of session locks
}

var (
	_ tokenstore.Directory    = (*Directory)(nil)
	_ tokenstore.Setups       = (*Directory)(nil)
	_ tokenstore.Elector      = (*Directory)(nil)
	_ tokenstore.Evictor      = (*Directory)(nil)
	_ tokenstore.Waker        = (*Directory)(nil)
	_ tokenstore.LiveNotifier = (*Directory)(nil)
	_ tokenstore.Prober       = (*Directory)(nil)
)

// NewDirectory returns the directory in a schema which Migrate has brought up to date.
func NewDirectory(pool *pgxpool.Pool, schema string) *Directory {
	return &Directory{pool: pool, schema: quoted(schema), notify: Channel(schema), live: LiveChannel(schema), class: sessionClass(schema)}
}

func (d *Directory) in(sql string) string { return strings.ReplaceAll(sql, "{{schema}}", d.schema) }

// DeclareProcessor implements tokenstore.Directory.
func (d *Directory) DeclareProcessor(ctx context.Context, p tokenstore.Processor) error {
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		changed, err := d.declareRow(ctx, tx, p)
		if err != nil || !changed {
			return err
		}
		// A definition gets a new number whenever it becomes the wanted one, unless it is the newest already.
		_, err = tx.Exec(ctx, d.in(`
			INSERT INTO {{schema}}.definition AS f (processor, id, number)
			SELECT $1, $2, 1 + coalesce(max(number), 0) FROM {{schema}}.definition WHERE processor = $1
			ON CONFLICT (processor, id) DO UPDATE SET number = excluded.number, failures = 0, quarantined_at = NULL WHERE f.number <> excluded.number - 1`), p.Name, p.Definition)
		if err == nil {
			_, err = tx.Exec(ctx, `SELECT pg_notify($1, $2)`, d.notify, p.Name)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("declaring processor %s: %w", p.Name, err)
	}
	return nil
}

// declareRow makes the row the processor's, and reports whether it has changed.
func (d *Directory) declareRow(ctx context.Context, tx pgx.Tx, p tokenstore.Processor) (changed bool, err error) {
	tag, err := tx.Exec(ctx, d.in(`INSERT INTO {{schema}}.processor (name, definition, replicas, live, installation) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`),
		p.Name, p.Definition, p.Replicas, p.Live, p.Installation)
	if err != nil {
		return false, err
	}
	if tag.RowsAffected() == 1 {
		return true, d.endOthers(ctx, tx, p.Owner(), false)
	}
	has := tokenstore.Owner{Processor: p.Name}
	if err := tx.QueryRow(ctx, d.in(`SELECT installation FROM {{schema}}.processor WHERE name = $1 FOR NO KEY UPDATE`), p.Name).Scan(&has.Installation); err != nil {
		return false, err
	}
	if !p.Owner().MayTake(has) {
		return false, &tokenstore.GroupConflictError{Owner: has, By: p.Owner()}
	}
	taken := !p.Owner().Has(has)
	if !p.Owner().Is(has) {
		_, err := tx.Exec(ctx, d.in(`UPDATE {{schema}}.processor SET installation = $2, taken_over_at = CASE WHEN $3 THEN clock_timestamp() ELSE taken_over_at END WHERE name = $1`),
			p.Name, p.Installation, taken)
		if err != nil {
			return false, err
		}
		if err := d.endOthers(ctx, tx, p.Owner(), taken); err != nil {
			return false, err
		}
	}
	tag, err = tx.Exec(ctx, d.in(`UPDATE {{schema}}.processor SET definition = $2, replicas = $3, live = $4, revision = revision + 1
		WHERE name = $1 AND ($5 OR (definition, replicas, live) IS DISTINCT FROM ($2, $3, $4))`), p.Name, p.Definition, p.Replicas, p.Live, taken)
	return tag.RowsAffected() == 1, err
}

// endOthers ends a processor's workers of other installations; after it was taken from one, those
// too that do not know theirs. Their connections are left to those who claim their segments.
func (d *Directory) endOthers(ctx context.Context, tx pgx.Tx, owner tokenstore.Owner, taken bool) error {
	_, err := tx.Exec(ctx, d.in(`WITH ended AS (
		  UPDATE {{schema}}.worker SET state = 'Ended' WHERE processor = $1 AND state <> 'Ended' AND installation <> $2 AND (installation <> '' OR $3) RETURNING incarnation)
		DELETE FROM {{schema}}.assignment a USING ended WHERE a.processor = $1 AND a.worker = ended.incarnation`), owner.Processor, owner.Installation, taken)
	if err != nil {
		return fmt.Errorf("ending the workers of other installations: %w", err)
	}
	return nil
}

// RemoveProcessor implements tokenstore.Directory.
func (d *Directory) RemoveProcessor(ctx context.Context, owner tokenstore.Owner) error {
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		var others bool
		err := tx.QueryRow(ctx, d.in(`SELECT EXISTS (SELECT FROM {{schema}}.processor WHERE name = $1 AND installation NOT IN ('', $2) FOR UPDATE)`),
			owner.Processor, owner.Installation).Scan(&others)
		if err != nil || others {
			return err
		}
		for _, sql := range []string{
			`DELETE FROM {{schema}}.processor WHERE name = $1`,
			`DELETE FROM {{schema}}.worker WHERE processor = $1`,
		} {
			if _, err := tx.Exec(ctx, d.in(sql), owner.Processor); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing processor %s: %w", owner, err)
	}
	return nil
}

// Register implements tokenstore.Directory. The row's trigger lets workers in, so that it holds for
// older ones too.
func (d *Directory) Register(ctx context.Context, processor string, w tokenstore.Worker) error {
	_, err := d.pool.Exec(ctx, d.in(`
		INSERT INTO {{schema}}.worker (incarnation, nonce, processor, pod, definition, handlers, version, protocol, session_lock, state, lease_until,
		  lock_class, application, installation)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, false, 'Active', clock_timestamp() + $9::interval,
		  CASE WHEN $10 THEN $11::integer END, $12 || `+home+` || '/' || $1::bigint || '/' || left($2::uuid::text, 4), $13)`),
		w.Incarnation, w.Nonce, processor, w.Pod, w.Definition, w.Handlers, w.Version, w.Protocol, tokenstore.TimingOf(w.Lease).Lease,
		w.SessionLock, d.class, applicationPrefix, w.Installation)
	if err == nil {
		_, err = d.pool.Exec(ctx, `SELECT pg_notify($1, $2)`, d.notify, processor)
	}
	if err != nil {
		return fmt.Errorf("registering pod %s as a worker: %w", w.Pod, notAdmitted(err, processor, w.Installation))
	}
	return nil
}

// notAdmitted turns the error of the trigger that lets workers in into a
// *tokenstore.InstallationError.
func notAdmitted(err error, processor, installation string) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "SL010" {
		return &tokenstore.InstallationError{Processor: processor, Installation: installation, Owner: pg.Detail}
	}
	return err
}

// Heartbeat implements tokenstore.Directory.
func (d *Directory) Heartbeat(ctx context.Context, w tokenstore.Worker) (tokenstore.HeartbeatResponse, error) {
	var p tokenstore.HeartbeatResponse
	var known bool
	var revision, plan *int64
	err := d.pool.QueryRow(ctx, d.in(`
		WITH me AS (
		  UPDATE {{schema}}.worker SET lease_until = clock_timestamp() + $3::interval, state = $4, report = $5
		   WHERE incarnation = $1 AND nonce = $2 AND state <> 'Ended' RETURNING processor, definition
		), standing AS ( -- one update: of two of the same row, one would be lost
		  UPDATE {{schema}}.definition f SET
		    proven_at = CASE WHEN $7 THEN coalesce(f.proven_at, clock_timestamp()) ELSE f.proven_at END,
		    idle_at = CASE WHEN $7 OR $11 THEN coalesce(f.idle_at, clock_timestamp()) ELSE f.idle_at END,
		    failures = CASE WHEN fails THEN $8 ELSE f.failures END,
		    quarantined_at = CASE WHEN fails THEN clock_timestamp() ELSE f.quarantined_at END
		   FROM (SELECT d.processor, d.id, d.proven_at IS NULL AND d.quarantined_at IS NULL AND $9 AND NOT $7 AS fails
		           FROM {{schema}}.definition d JOIN me ON d.processor = me.processor AND d.id = me.definition) AS n
		   WHERE f.processor = n.processor AND f.id = n.id AND (f.proven_at IS NULL AND $7 OR f.idle_at IS NULL AND $11 OR fails) RETURNING f.processor
		), told AS (
		  SELECT pg_notify($10, processor) FROM standing
		)
		SELECT EXISTS (SELECT FROM me), p.revision, p.plan, coalesce(p.plan_renewed_at > clock_timestamp() - $6::interval, false)
		    AND NOT EXISTS (SELECT FROM {{schema}}.worker w WHERE w.processor = p.name AND p.planner = '`+tokenstore.WorkerPlans+`' || w.incarnation AND NOT `+alive+`),
		  coalesce(p.planner, ''),
		  (SELECT count(*) FROM {{schema}}.worker w WHERE w.processor = p.name AND `+alive+`),
		  (SELECT count(*) FROM {{schema}}.worker w WHERE w.processor = p.name AND w.state <> 'Ended'),
		  (SELECT count(*) FROM {{schema}}.replay r WHERE r.phase IN ('Pending', 'Resetting', 'Replaying') AND (r.processor = p.name
		    OR EXISTS (SELECT FROM {{schema}}.processing_group g WHERE g.processor = p.name AND g.replay = r.number))),
		  clock_timestamp()
		FROM (SELECT count(*) FROM told) AS one LEFT JOIN {{schema}}.processor p ON p.name = (SELECT processor FROM me)`),
		w.Incarnation, w.Nonce, tokenstore.TimingOf(w.Lease).Lease, w.State, w.Report, tokenstore.PlannerTimeout, w.Report.Proven, tokenstore.QuarantineAfter, w.Report.Failing != "", d.notify, w.Report.Idle).
		Scan(&known, &revision, &plan, &p.Planned, &p.Planner, &p.Alive, &p.Known, &p.Replays, &p.Now)
	switch {
	case err != nil:
		return p, fmt.Errorf("renewing the lease: %w", err)
	case !known:
		return p, tokenstore.ErrWorkerEnded
	case revision == nil:
		return p, tokenstore.ErrNoProcessor
	}
	p.Revision, p.Plan = *revision, *plan
	return p, nil
}

// Wake implements tokenstore.Waker.
func (d *Directory) Wake(ctx context.Context, processor string) error {
	if _, err := d.pool.Exec(ctx, `SELECT pg_notify($1, $2)`, d.notify, processor); err != nil {
		return fmt.Errorf("waking the workers of %s: %w", processor, err)
	}
	return nil
}

// SetState implements tokenstore.Directory.
func (d *Directory) SetState(ctx context.Context, incarnation int64, state tokenstore.State) error {
	_, err := d.pool.Exec(ctx, d.in(`
		WITH changed AS (UPDATE {{schema}}.worker SET state = $2 WHERE incarnation = $1 AND state <> 'Ended' RETURNING processor)
		SELECT pg_notify($3, processor) FROM changed`), incarnation, state, d.notify)
	if err != nil {
		return fmt.Errorf("making worker %d %s: %w", incarnation, state, err)
	}
	return nil
}

// Leave implements tokenstore.Directory.
func (d *Directory) Leave(ctx context.Context, processor string, pods []string) error {
	_, err := d.pool.Exec(ctx, d.in(`
		WITH changed AS (UPDATE {{schema}}.worker SET leaving_since = CASE WHEN pod = ANY ($2) THEN clock_timestamp() END
		  WHERE processor = $1 AND state <> 'Ended' AND (leaving_since IS NOT NULL) <> (pod = ANY ($2)) RETURNING processor)
		SELECT pg_notify($3, processor) FROM (SELECT DISTINCT processor FROM changed) AS c`), processor, append([]string{}, pods...), d.notify) // never NULL
	if err != nil {
		return fmt.Errorf("saying which workers of %s leave: %w", processor, err)
	}
	return nil
}

// Acknowledge implements tokenstore.Directory.
func (d *Directory) Acknowledge(ctx context.Context, processor string, plan int64) error {
	_, err := d.pool.Exec(ctx, d.in(`
		WITH changed AS (UPDATE {{schema}}.processor SET costed = $2 WHERE name = $1 AND costed < $2 RETURNING name)
		SELECT pg_notify($3, name) FROM changed`), processor, plan, d.notify)
	if err != nil {
		return fmt.Errorf("acknowledging plan %d of %s: %w", plan, processor, err)
	}
	return nil
}

// View implements tokenstore.Directory: one round trip, one snapshot.
func (d *Directory) View(ctx context.Context, processor string) (tokenstore.View, error) {
	var v tokenstore.View
	batch := &pgx.Batch{}
	batch.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	batch.Queue(d.in(`SELECT p.name, p.definition, coalesce(f.number, 0), p.replicas, p.live, p.revision, p.plan, p.planner, p.members, coalesce(f.quarantined_at IS NOT NULL, false), p.costed, clock_timestamp() - p.plan_renewed_at, p.installation
		FROM {{schema}}.processor p LEFT JOIN {{schema}}.definition f ON f.processor = p.name AND f.id = p.definition WHERE p.name = $1`), processor).
		QueryRow(func(row pgx.Row) error {
			p := &v.Processor
			return row.Scan(&p.Name, &p.Definition, &p.Number, &p.Replicas, &p.Live, &p.Revision, &p.Plan, &p.Planner, &p.Members, &p.Quarantined, &p.Costed, &p.PlanAge, &p.Installation)
		})
	batch.Queue(d.in(`SELECT w.incarnation, w.nonce::text, w.pod, w.definition, coalesce(f.number, 0), w.handlers, w.version, w.protocol, `+holdsLock+`, w.state,
		`+alive+`, w.lease_until > clock_timestamp(), w.report, w.started_at, f.proven_at IS NOT NULL, f.idle_at IS NOT NULL, f.quarantined_at IS NOT NULL,
		coalesce(clock_timestamp() - w.leaving_since, '0'), w.installation
		FROM {{schema}}.worker w LEFT JOIN {{schema}}.definition f ON f.processor = w.processor AND f.id = w.definition
		WHERE w.processor = $1 AND w.state <> 'Ended' ORDER BY w.incarnation`), processor).
		Query(func(rows pgx.Rows) (err error) {
			v.Workers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[tokenstore.Worker])
			return err
		})
	batch.Queue(d.in(`SELECT group_name, segment, worker FROM {{schema}}.assignment WHERE processor = $1 ORDER BY group_name, segment`), processor).
		Query(func(rows pgx.Rows) (err error) {
			v.Assignments, err = pgx.CollectRows(rows, scanAssignment)
			return err
		})
	batch.Queue(`COMMIT`)
	err := withConn(ctx, d.pool, func(conn *pgxpool.Conn) error { return conn.SendBatch(ctx, batch).Close() })
	if errors.Is(err, pgx.ErrNoRows) {
		return v, tokenstore.ErrNoProcessor
	}
	if err != nil {
		return v, fmt.Errorf("looking at processor %s: %w", processor, err)
	}
	return v, nil
}

func scanAssignment(row pgx.CollectableRow) (a tokenstore.Assignment, err error) {
	err = row.Scan(&a.Group, &a.Segment, &a.Worker)
	return a, err
}

// endedWorkersKept is how long the rows of ended workers, and of dead ones, stay for those who look for what happened.
const endedWorkersKept = time.Hour

// Assign implements tokenstore.Directory.
func (d *Directory) Assign(ctx context.Context, processor string, p tokenstore.Plan) error {
	if !p.Changed { // a transaction of several round trips is not needed for it
		return d.renewPlan(ctx, d.pool, processor, p)
	}
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if err := d.renewPlan(ctx, tx, processor, p); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		groups, segments, workers := assignmentColumns(p.Targets)
		batch.Queue(d.in(`INSERT INTO {{schema}}.assignment (processor, group_name, segment, worker, plan)
			SELECT $1, g, s, w, $2 FROM unnest($3::text[], $4::integer[], $5::bigint[]) AS a (g, s, w) ORDER BY g, s
			ON CONFLICT (processor, group_name, segment) DO UPDATE SET worker = excluded.worker, plan = excluded.plan`), processor, p.Last+1, groups, segments, workers)
		groups, segments = keyColumns(p.Gone)
		batch.Queue(d.in(`DELETE FROM {{schema}}.assignment a USING unnest($2::text[], $3::integer[]) AS g (group_name, segment)
			WHERE a.processor = $1 AND a.group_name = g.group_name AND a.segment = g.segment`), processor, groups, segments)
		batch.Queue(d.in(`DELETE FROM {{schema}}.worker WHERE processor = $1 AND lease_until < clock_timestamp() - $2::interval`), processor, endedWorkersKept)
		batch.Queue(`SELECT pg_notify($1, $2)`, d.notify, processor)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("writing the plan of %s: %w", processor, err)
		}
		return nil
	})
}

// renewPlan writes what a processor's row says of its plan.
func (d *Directory) renewPlan(ctx context.Context, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, processor string, p tokenstore.Plan) error {
	tag, err := db.Exec(ctx, d.in(`UPDATE {{schema}}.processor SET plan = plan + $4, planner = $3, members = $5, plan_renewed_at = clock_timestamp()
		WHERE name = $1 AND plan = $2`), processor, p.Last, p.Planner, boolToInt(p.Changed), p.Members)
	if err != nil {
		return fmt.Errorf("writing the plan of %s: %w", processor, err)
	}
	if tag.RowsAffected() == 0 {
		return tokenstore.ErrPlanOutdated
	}
	return nil
}

// Adopt implements tokenstore.Directory.
func (d *Directory) Adopt(ctx context.Context, processor string, worker int64, orphans []tokenstore.Assignment) ([]tokenstore.Key, error) {
	groups, segments, workers := assignmentColumns(orphans)
	var got []tokenstore.Key
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		// The processor's row orders this with the planners.
		var plan int64
		err := tx.QueryRow(ctx, d.in(`SELECT plan + 1 FROM {{schema}}.processor WHERE name = $1 FOR NO KEY UPDATE`), processor).Scan(&plan)
		if errors.Is(err, pgx.ErrNoRows) {
			return tokenstore.ErrNoProcessor
		}
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, d.in(`
			INSERT INTO {{schema}}.assignment AS a (processor, group_name, segment, worker, plan)
			SELECT $1, o.group_name, o.segment, $2, $3 FROM unnest($4::text[], $5::integer[], $6::bigint[]) AS o (group_name, segment, was)
			  LEFT JOIN {{schema}}.assignment b ON b.processor = $1 AND b.group_name = o.group_name AND b.segment = o.segment
			 WHERE coalesce(b.worker, 0) = o.was ORDER BY 2, 3
			ON CONFLICT (processor, group_name, segment) DO UPDATE SET worker = excluded.worker, plan = excluded.plan
			RETURNING a.group_name, a.segment`), processor, worker, plan, groups, segments, workers)
		if err != nil {
			return err
		}
		got, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k tokenstore.Key, err error) {
			err = row.Scan(&k.Group, &k.Segment)
			return k, err
		})
		if err != nil || len(got) == 0 {
			return err
		}
		_, err = tx.Exec(ctx, d.in(`UPDATE {{schema}}.processor SET plan = $2 WHERE name = $1`), processor, plan)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("adopting %d segments of %s: %w", len(orphans), processor, err)
	}
	return got, nil
}

func assignmentColumns(all []tokenstore.Assignment) (groups []string, segments []int32, workers []int64) {
	groups, segments, workers = make([]string, len(all)), make([]int32, len(all)), make([]int64, len(all))
	for i, a := range all {
		groups[i], segments[i], workers[i] = a.Group, int32(a.Segment), a.Worker
	}
	return groups, segments, workers
}

func keyColumns(all []tokenstore.Key) (groups []string, segments []int32) {
	groups, segments = make([]string, len(all)), make([]int32, len(all))
	for i, k := range all {
		groups[i], segments[i] = k.Group, int32(k.Segment)
	}
	return groups, segments
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
