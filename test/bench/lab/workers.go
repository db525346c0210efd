package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Workers are processes of this program that run a processor's worker each, as pods do. The program has to call sluice.Main where its
// first argument is "worker".
type Workers struct {
	dir       string
	processes []*exec.Cmd
}

// StartWorkers starts n workers at once. What they log is told by Logs.
func (p *Processor) StartWorkers(n int) (w *Workers, err error) {
	w = &Workers{}
	if w.dir, err = os.MkdirTemp("", "sluice-bench-workers-"); err != nil {
		return nil, err
	}
	if err := w.start(p, n); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *Workers) start(p *Processor, n int) error {
	spec, err := p.spec()
	if err != nil {
		return err
	}
	definition, err := json.Marshal(spec.Definition())
	if err != nil {
		return err
	}
	secret := filepath.Join(w.dir, "secrets", "unused")
	if err := os.MkdirAll(secret, 0o700); err != nil {
		return err
	}
	file := filepath.Join(w.dir, "definition.json")
	if err := errors.Join(os.WriteFile(file, definition, 0o600), os.WriteFile(filepath.Join(secret, "uri"), []byte(p.URL), 0o600)); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range n {
		log, err := os.Create(w.log(i))
		if err != nil {
			return err
		}
		cmd := exec.Command(self, "worker")
		cmd.Env = append(os.Environ(), "SLUICE_PROCESSOR="+p.key(), fmt.Sprint("SLUICE_POD=worker-", i), "SLUICE_DEFINITION_FILE="+file,
			"SLUICE_SECRETS_DIR="+filepath.Join(w.dir, "secrets"), "SLUICE_METRICS_ADDRESS=", "SLUICE_PROBE_ADDRESS=",
			`SLUICE_STORE={"type":"Postgres","postgres":{"urlSecretRef":{"name":"unused"}}}`)
		cmd.Stderr = log
		if err := errors.Join(cmd.Start(), log.Close()); err != nil {
			return err
		}
		w.processes = append(w.processes, cmd)
	}
	return nil
}

func (w *Workers) log(i int) string { return filepath.Join(w.dir, fmt.Sprintf("worker-%d.log", i)) }

// Logs are what the workers have logged, the last thousand bytes of each.
func (w *Workers) Logs() string {
	all := ""
	for i := range w.processes {
		text, err := os.ReadFile(w.log(i))
		if err != nil {
			text = []byte(err.Error())
		}
		all += fmt.Sprintf("worker %d: %s\n", i, text[max(0, len(text)-1000):])
	}
	return all
}

// Spent is the CPU time of all of them so far.
func (w *Workers) Spent() (all time.Duration, err error) {
	for _, cmd := range w.processes {
		spent, err := spentBy(cmd.Process.Pid)
		if err != nil {
			return 0, fmt.Errorf("a worker has ended: %w\n%s", err, w.Logs())
		}
		all += spent
	}
	return all, nil
}

// Close kills the workers: nobody goes on with what they did.
func (w *Workers) Close() error {
	for _, cmd := range w.processes {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // by the signal
	}
	return os.RemoveAll(w.dir)
}
