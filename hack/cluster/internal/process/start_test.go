//go:build linux

package process

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAwaitFailsIfTheProcessEndedAndSomebodyElseAnswers(t *testing.T) {
	r := &Running{spec: Spec{Name: "etcd", Log: filepath.Join(t.TempDir(), "log")}, exited: make(chan error, 1)}
	r.exited <- errors.New("exit status 1")
	err := r.Await("that it is ready", time.Minute, func() bool { return true })
	if err == nil || !strings.Contains(err.Error(), "etcd ended (exit status 1)") {
		t.Errorf("got %v", err)
	}
}
