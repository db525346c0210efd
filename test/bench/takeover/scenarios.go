package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// signalled sends a signal to the worker that owns most.
func signalled(sig syscall.Signal) func(context.Context, *world) (result, error) {
	return func(ctx context.Context, w *world) (r result, err error) {
		owned, err := w.stamped(ctx)
		if err != nil {
			return r, err
		}
		victim := largest(owned)
		pod, pid, err := w.process(ctx, victim)
		if err != nil {
			return r, err
		}
		watching, cancel := context.WithCancel(ctx)
		defer cancel()
		free, err := w.lockFree(watching, victim)
		if err != nil {
			return r, err
		}
		sent := time.Now()
		if err := syscall.Kill(pid, sig); err != nil {
			return r, fmt.Errorf("signalling %s: %w", pod, err)
		}
		r.pauses, err = w.pauses(ctx, []int64{victim}, owned[victim], sent)
		if sig == syscall.SIGSTOP {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				return r, fmt.Errorf("letting %s go on: %w", pod, err)
			}
			return r, err // a frozen process keeps its session, and its lock
		}
		if err != nil {
			return r, err
		}
		r.baseline, err = since(ctx, sent, free)
		return r, err
	}
}

// largest is the worker that owns most.
func largest(owned map[int64][]string) (worker int64) {
	for of, streams := range owned {
		if n := len(owned[worker]); worker == 0 || len(streams) > n || len(streams) == n && of < worker {
			worker = of
		}
	}
	return worker
}

// process returns a worker's pod and its process on the host.
func (w *world) process(ctx context.Context, worker int64) (pod string, pid int, err error) {
	if err := w.db.QueryRow(ctx, `SELECT pod FROM sluice.worker WHERE incarnation = $1`, worker).Scan(&pod); err != nil {
		return "", 0, err
	}
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return pod, 0, err
	}
	for _, path := range environments {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(text), "\x00SLUICE_POD="+pod+"\x00") {
			continue // it has ended meanwhile, or is another one
		}
		pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path)))
		return pod, pid, err
	}
	return pod, 0, fmt.Errorf("no process of %s is on this machine: the bench needs root and the local cluster", pod)
}

// lockFree waits on a connection of its own for a worker's session lock, and passes on when the server gave it.
func (w *world) lockFree(ctx context.Context, worker int64) (<-chan time.Time, error) {
	conn, err := pgx.ConnectConfig(ctx, w.db.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	pid := conn.PgConn().PID()
	free := make(chan time.Time, 1)
	go func() {
		defer close(free)
		defer conn.Close(context.WithoutCancel(ctx)) // the bench goes on without it
		var at time.Time
		// The lock is taken before the clock is read: a row's columns are computed from left to right.
		if err := conn.QueryRow(ctx, `SELECT clock_timestamp() FROM (SELECT pg_advisory_xact_lock_shared(lock_class, $1::int) FROM sluice.worker WHERE incarnation = $1::int OFFSET 0) AS l`, int32(worker)).Scan(&at); err == nil {
			free <- at
		}
	}()
	for waits := false; !waits; {
		if err := w.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted)`, pid).Scan(&waits); err != nil {
			return nil, err
		}
	}
	return free, nil
}

// since returns how long after a time the lock was free.
func since(ctx context.Context, sent time.Time, free <-chan time.Time) (time.Duration, error) {
	select {
	case at, got := <-free:
		if !got {
			return 0, errors.New("the connection that waited for the session lock was lost")
		}
		return at.Sub(sent), nil
	case <-time.After(patience):
		return 0, fmt.Errorf("the session lock is not free after %s", patience)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

const cutNode = "sluice-2"

// cutOff takes a node off the network with all workers on it.
func cutOff(ctx context.Context, w *world) (r result, err error) {
	owned, err := w.stamped(ctx)
	if err != nil {
		return r, err
	}
	var victims []int64
	var streams []string
	var free []<-chan time.Time
	for worker := range owned {
		pod, _, err := w.process(ctx, worker)
		if err != nil {
			return r, err
		}
		node, err := w.Kubectl(ctx, "--namespace", namespace, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
		if err != nil {
			return r, err
		}
		if node != cutNode {
			continue
		}
		lock, err := w.lockFree(ctx, worker)
		if err != nil {
			return r, err
		}
		victims, streams, free = append(victims, worker), append(streams, owned[worker]...), append(free, lock)
	}
	if len(victims) == 0 || len(victims) == len(owned) {
		return r, fmt.Errorf("%d of %d workers with segments are on %s", len(victims), len(owned), cutNode)
	}
	r.note = fmt.Sprintf("%d workers cut off", len(victims))
	if r.pauses, err = w.whileCut(ctx, victims, streams, free, &r.baseline); err != nil {
		return r, err
	}
	return r, w.nodeReady(ctx)
}

// whileCut measures between cutting the node off and putting it back.
func (w *world) whileCut(ctx context.Context, victims []int64, streams []string, free []<-chan time.Time, baseline *time.Duration) (pauses []time.Duration, err error) {
	defer func() {
		_, healed := w.Cluster(context.WithoutCancel(ctx), "heal", cutNode)
		err = errors.Join(err, healed)
	}()
	sent := time.Now() // at the earliest: before the command that cuts begins
	if _, err := w.Run(ctx, w.cluster, "cut", cutNode); err != nil {
		return nil, err
	}
	if pauses, err = w.pauses(ctx, victims, streams, sent); err != nil {
		return nil, err
	}
	for _, lock := range free {
		d, err := since(ctx, sent, lock)
		if err != nil {
			return nil, err
		}
		*baseline = max(*baseline, d)
	}
	return pauses, nil
}

func (w *world) nodeReady(ctx context.Context) error {
	_, err := w.Kubectl(ctx, "wait", "--for=condition=Ready", "node/"+cutNode, "--timeout=120s")
	return err
}

// away is how long PostgreSQL stays away: long enough for every wait between two attempts to have grown to its longest.
const away = 5 * time.Second

// postgresRestarted stops PostgreSQL and starts it again. The figure counts from when it accepts connections.
func postgresRestarted(ctx context.Context, w *world) (r result, err error) {
	if _, err := w.Cluster(ctx, "postgres-stop"); err != nil {
		return r, err
	}
	sleep(ctx, away)
	back := make(chan time.Time, 1)
	go func() {
		for ctx.Err() == nil {
			if conn, err := pgx.ConnectConfig(ctx, w.db.Config().ConnConfig); err == nil {
				back <- time.Now()
				conn.Close(ctx) // it was only to see whether it is there
				return
			}
			sleep(ctx, 2*time.Millisecond)
		}
	}()
	if _, err := w.Cluster(ctx, "postgres-start"); err != nil {
		return r, err
	}
	select {
	case at := <-back:
		r.note = fmt.Sprintf("it was away for %s", away)
		r.pauses, err = w.pauses(ctx, []int64{}, w.streams, at)
		return r, err
	case <-time.After(patience):
		return r, errors.New("PostgreSQL is not back")
	}
}

// rolledOut changes the definition and looks for the longest time without a stamp of each segment.
func rolledOut(ctx context.Context, w *world) (r result, err error) {
	steady, _, err := w.gaps(ctx)
	if err != nil {
		return r, err
	}
	var before string
	if err := w.db.QueryRow(ctx, `SELECT definition FROM sluice.processor WHERE name = $1`, w.processor()).Scan(&before); err != nil {
		return r, err
	}
	w.edition++
	began := time.Now()
	if err := w.apply(ctx); err != nil {
		return r, err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for done := false; !done; {
		if waiting.Err() != nil {
			return r, fmt.Errorf("the rollout has not ended after %s", patience)
		}
		if err := w.db.QueryRow(waiting, `
			SELECT p.definition <> $2 AND (SELECT count(*) FROM sluice.worker w WHERE w.processor = p.name AND w.state = 'Active' AND w.lease_until > clock_timestamp()) = $3
			   AND NOT EXISTS (SELECT FROM sluice.token t LEFT JOIN sluice.worker w ON w.incarnation = t.owner AND w.definition = p.definition AND w.state = 'Active'
				WHERE t.group_name = $4 AND w.incarnation IS NULL)
			  FROM sluice.processor p WHERE p.name = $1`, w.processor(), before, replicas, w.name).Scan(&done); err != nil {
			return r, err
		}
		sleep(waiting, 50*time.Millisecond)
	}
	took := time.Since(began)
	sleep(ctx, time.Second)
	var moves int
	if r.pauses, moves, err = w.gaps(ctx); err != nil {
		return r, err
	}
	r.note = fmt.Sprintf("%d moves of %d segments in %.1f s, longest gap before it %s", moves, segments, took.Seconds(), ms(result{pauses: steady}.figure()))
	return r, nil
}

// gaps returns the longest time between two stamps of each segment, and how often one got another owner.
func (w *world) gaps(ctx context.Context) (gaps []time.Duration, moves int, err error) {
	rows, err := w.db.Query(ctx, `
		SELECT max(gap), count(*) FILTER (WHERE moved) FROM (
		  SELECT stream, at - lag(at) OVER w AS gap, worker <> lag(worker) OVER w AS moved FROM `+w.stamps()+` WINDOW w AS (PARTITION BY stream ORDER BY position)
		) AS s GROUP BY stream`)
	if err != nil {
		return nil, 0, err
	}
	var gap time.Duration
	var n int
	_, err = pgx.ForEachRow(rows, []any{&gap, &n}, func() error {
		gaps, moves = append(gaps, gap), moves+n
		return nil
	})
	return gaps, moves, err
}
