package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	. "github.com/onsi/ginkgo/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// playedWorker is a worker that claims and releases as the plan says, and handles nothing.
type playedWorker struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	processor string
	directory *postgres.Directory
	store     *postgres.Store
	report    func(tokenstore.Worker) tokenstore.Report
	me        tokenstore.Worker
	leaving   atomic.Bool
}

// startWorker starts one where the store is ready for it; otherwise the next step tries again.
func (w *world) startWorker(ctx context.Context, pod *corev1.Pod) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pool == nil {
		pool, err := pgxpool.New(ctx, w.url)
		if err != nil {
			return err
		}
		w.pool = pool
	}
	if _, err := postgres.Check(ctx, w.pool, postgres.DefaultSchema); err != nil {
		return nil // not there yet
	}
	p := &playedWorker{
		processor: fmt.Sprintf("test/%s/%s", w.namespace, pod.Labels[desired.LabelProcessor]),
		directory: postgres.NewDirectory(w.pool, postgres.DefaultSchema), store: postgres.NewStore(w.pool, postgres.DefaultSchema),
		report: func(me tokenstore.Worker) tokenstore.Report { return w.reportOf(me) },
		me: tokenstore.Worker{Nonce: string(uuid.NewUUID()), Pod: pod.Name, Definition: pod.Labels[desired.LabelDefinition], Handlers: []string{},
			Version: "1.2.3", Protocol: tokenstore.Protocol, State: tokenstore.Active, Installation: installationOf(pod)},
	}
	if err := w.pool.QueryRow(ctx, "SELECT nextval('sluice.incarnation')").Scan(&p.me.Incarnation); err != nil {
		return err
	}
	if err := p.directory.Register(ctx, p.processor, p.me); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.done.Go(func() { p.run(run) })
	w.workers[pod.Name] = p
	return nil
}

// installationOf is what a pod's worker is told.
func installationOf(pod *corev1.Pod) string {
	for _, e := range pod.Spec.Containers[0].Env {
		if e.Name == "SLUICE_INSTALLATION" {
			return e.Value
		}
	}
	return ""
}

func (w *world) reportOf(me tokenstore.Worker) tokenstore.Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.report != nil {
		return w.report(me)
	}
	return tokenstore.Report{Ready: true, Proven: true}
}

func (p *playedWorker) run(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := p.step(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(GinkgoWriter, "worker of", p.me.Pod, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *playedWorker) step(ctx context.Context) error {
	groups, err := p.store.Groups(ctx, p.processor)
	if err != nil {
		return err
	}
	p.me.Report = p.report(p.me)
	p.me.Report.Ready = p.me.Report.Ready && !p.leaving.Load()
	if p.me.Report.Groups == nil {
		p.me.Report.Groups = map[string]tokenstore.GroupReport{}
		for _, g := range groups {
			p.me.Report.Groups[g.Name] = tokenstore.GroupReport{}
		}
	}
	if _, err := p.directory.Heartbeat(ctx, p.me); err != nil {
		if errors.Is(err, tokenstore.ErrNoProcessor) {
			return nil
		}
		return err
	}
	view, err := p.directory.View(ctx, p.processor)
	if err != nil {
		return err
	}
	for _, w := range view.Workers {
		if w.Incarnation == p.me.Incarnation {
			p.leaving.Store(w.LeavingFor > 0)
		}
	}
	mine := map[tokenstore.Key]bool{}
	for _, a := range view.Assignments {
		mine[a.Key] = a.Worker == p.me.Incarnation
	}
	tokens, err := p.store.Tokens(ctx, p.processor)
	if err != nil {
		return err
	}
	var claims []tokenstore.Claim
	for _, t := range tokens {
		switch {
		case mine[t.Key] && t.Owner == 0:
			claims = append(claims, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch, Sequencing: t.Sequencing})
		case mine[t.Key] && t.Owner != p.me.Incarnation && !living(view, t.Owner):
			claims = append(claims, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch, Sequencing: t.Sequencing})
		case !mine[t.Key] && t.Owner == p.me.Incarnation:
			err = errors.Join(err, p.release(ctx, t))
		}
	}
	if len(claims) == 0 {
		return err
	}
	number := int64(0)
	for _, w := range view.Workers {
		if w.Incarnation == p.me.Incarnation {
			number = w.DefinitionNumber
		}
	}
	_, claim := p.store.Claim(ctx, p.processor, p.me.Incarnation, number, claims)
	return errors.Join(err, claim)
}

func living(view tokenstore.View, incarnation int64) bool {
	for _, w := range view.Workers {
		if w.Incarnation == incarnation {
			return w.Alive
		}
	}
	return false
}

func (p *playedWorker) release(ctx context.Context, t tokenstore.Token) error {
	return p.store.Advance(ctx, []tokenstore.Advance{{Key: t.Key, Epoch: t.Epoch, Version: t.Version, Parts: t.Parts, WasParted: len(t.Parts) > 1, Release: true}})
}

// stop ends the worker as SIGTERM does: it releases and is gone.
func (p *playedWorker) stop() {
	p.cancel()
	p.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	tokens, err := p.store.Tokens(ctx, p.processor)
	if err != nil {
		return // the database is down, so the lease has to end
	}
	for _, t := range tokens {
		if t.Owner == p.me.Incarnation {
			if err := p.release(ctx, t); err != nil {
				fmt.Fprintln(GinkgoWriter, "releasing:", err)
			}
		}
	}
	if err := p.directory.SetState(ctx, p.me.Incarnation, tokenstore.Ended); err != nil {
		fmt.Fprintln(GinkgoWriter, "ending:", err)
	}
}
